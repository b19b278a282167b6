"""What the ComfyUI listener says of the nodes and models of all machines, as of one."""

import gzip
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from backends import descriptions, services
from backends.models import Backend
from jobgroups.domain.clock import now
from jobgroups.models import Asset, InputFile
from tests.api.conftest import LATER
from tests.api.listener.conftest import Program
from tests.harness.simulator_thread import SimulatorThread
from tests.harness.waits import until

pytestmark = pytest.mark.django_db

OLD, NEW = "0.3.64", "0.33.0"
#: Names that no other test uses: descriptions are kept in the process.
ONLY_OLD, ONLY_NEW = "only-old.safetensors", "only-new.safetensors"


def machine(url: str, version: str) -> Backend:
    row = services.backend_create(url=url)
    online(row, version)
    return row


def online(row: Backend, version: str, *, reachable: bool = True) -> None:
    services.backend_observed(
        backend_id=row.id,
        reachable=reachable,
        version=version,
        devices=[],
        reason="",
        seen_at=now() + LATER,
    )


def checkpoints(info: Any) -> list[str]:
    entry = info["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"]
    return entry[0] if isinstance(entry[0], list) else entry[1]["options"]


@pytest.fixture
def program() -> Program:
    return Program()


@pytest.fixture
def versions() -> Iterator[tuple[SimulatorThread, SimulatorThread]]:
    with (
        SimulatorThread(version=OLD, checkpoints=(ONLY_OLD, "both.safetensors")) as old,
        SimulatorThread(version=NEW, checkpoints=(ONLY_NEW, "both.safetensors")) as new,
    ):
        yield old, new


def test_union_has_every_class_the_newest_description_and_all_choices(
    program: Program, versions: tuple[SimulatorThread, SimulatorThread]
) -> None:
    old, new = versions
    machine(old.url, OLD)
    machine(new.url, NEW)
    info = program.get("/object_info")
    of_old = httpx.get(f"{old.url}/object_info", trust_env=False).json()
    of_new = httpx.get(f"{new.url}/object_info", trust_env=False).json()
    assert info.keys() == of_old.keys() | of_new.keys()
    assert of_old.keys() - of_new.keys()
    assert checkpoints(info) == [ONLY_NEW, "both.safetensors", ONLY_OLD]
    assert of_old["SaveVideo"] != of_new["SaveVideo"] == info["SaveVideo"]
    assert program.get("/api/object_info/CheckpointLoaderSimple") == {
        "CheckpointLoaderSimple": info["CheckpointLoaderSimple"]
    }
    assert program.get("/object_info/NoSuchNode") == {}


def test_answer_has_an_etag_and_gzip_and_costs_little(
    program: Program, versions: tuple[SimulatorThread, SimulatorThread]
) -> None:
    machine(versions[0].url, OLD)
    plain = program.ask("GET", "/object_info")
    packed = program.ask("GET", "/object_info", accept_encoding="deflate, gzip")
    assert gzip.decompress(packed.content) == plain.content
    assert len(packed.content) < len(plain.content) / 5
    etag = plain.headers["ETag"]
    assert packed.headers["ETag"] == etag

    def cost() -> float:
        began = time.thread_time()
        answer = program.ask("GET", "/object_info", if_none_match=etag)
        assert (answer.status_code, answer.content) == (304, b"")
        return time.thread_time() - began

    assert min(cost() for _ in range(5)) < 0.010


def test_machines_with_the_same_nodes_share_every_text() -> None:
    with SimulatorThread(count=2, version=NEW) as sims:
        rows = [machine(url, NEW) for url in sims.urls]
        first, second = descriptions.nodes.get(rows, within=30.0).values()
        assert all(second.classes[name] is text for name, text in first.classes.items())
        farm = descriptions.farm_nodes(rows, descriptions.nodes.get(rows, within=30.0))
        assert all(farm.classes[name] is text for name, text in first.classes.items())
        assert descriptions.farm_nodes(rows, descriptions.nodes.get(rows, within=30.0)) is farm


def test_descriptions_have_one_bound_of_memory_and_equal_texts_count_once(
    versions: tuple[SimulatorThread, SimulatorThread], caplog: pytest.LogCaptureFixture
) -> None:
    def answers(max_bytes: int) -> Any:
        texts = descriptions.nodes._texts
        return descriptions.Answers(descriptions._read_nodes, texts, max_bytes)

    with SimulatorThread(version=NEW, checkpoints=(ONLY_NEW, "both.safetensors")) as same:
        old, new, copy = (machine(sims.urls[0], NEW) for sims in (*versions, same))
        alone = answers(2**30)
        assert alone.get([new], within=30.0)
        size = alone._sizes.sum_bytes
        assert len(alone.get([new, copy], within=30.0)) == 2
        assert alone._sizes.sum_bytes < 1.5 * size
        bounded = answers(int(1.2 * size))
        assert bounded.get([old], within=30.0)
        assert list(bounded.get([new], within=30.0)) == [new.id]
        # The one that was read first was dropped.
        assert [key[0] for key in bounded._kept] == [new.id]
        assert bounded._sizes.sum_bytes == size
        assert f"such as that of {old.id}, are missing" in caplog.text


def test_machines_come_and_go(
    program: Program, versions: tuple[SimulatorThread, SimulatorThread]
) -> None:
    kept = machine(versions[0].url, OLD)
    leaving = machine(versions[1].url, NEW)
    assert ONLY_NEW in checkpoints(program.get("/object_info"))
    etag = program.ask("GET", "/object_info").headers["ETag"]
    online(leaving, NEW, reachable=False)
    assert checkpoints(program.get("/object_info")) == [ONLY_OLD, "both.safetensors"]
    online(leaving, NEW)
    assert program.ask("GET", "/object_info", if_none_match=etag).status_code == 304
    # While no machine answers, programs see what the machines had lately.
    for row in (kept, leaving):
        online(row, row.comfyui_version, reachable=False)
    assert ONLY_NEW in checkpoints(program.get("/object_info"))
    services.backend_update(backend_id=kept.id, enabled=False)
    services.backend_update(backend_id=leaving.id, enabled=False)
    answer = program.ask("GET", "/object_info")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert answer.json()["error"]["message"].startswith("No machine of the Director answers now.")


def test_new_file_of_a_machine_appears_without_a_wait(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SimulatorThread(version=NEW) as sims:
        machine(sims.url, NEW)
        program.get("/object_info")
        form = {"image": ("late.png", b"picture", "image/png")}
        httpx.post(f"{sims.url}/upload/image", files=form, trust_env=False).raise_for_status()
        for limit in ("FRESH_SECONDS", "_RETRY_SECONDS"):
            monkeypatch.setattr(descriptions, limit, 0.0)
        sims.fault("slow_http", route="/object_info", seconds=60)

        def shown() -> bool:
            return "late.png" in json.dumps(program.get("/object_info/LoadImage"))

        # Behind the answer that has the kept one.
        assert not shown()
        sims.clear_faults()
        until(shown, within=30.0)


def test_uploads_are_choices_of_their_owner(program: Program) -> None:
    with SimulatorThread(version=NEW) as sims:
        machine(sims.url, NEW)
        asset = Asset.objects.create(
            id="asset_1",
            hash="0" * 64,
            size_bytes=1,
            name="own.png",
            created_at=now(),
            used_at=now(),
        )
        for path in ("own.png", "own.mp4"):
            InputFile.objects.create(
                owner="10.0.0.1", folder="input", path=path, asset=asset, created_at=now()
            )

        def choices(who: Program, of: str) -> list[str]:
            info = who.get(of)["LoadImage"]["input"]["required"]["image"]
            listed: list[str] = info[0] if isinstance(info[0], list) else info[1]["options"]
            return listed

        for path in ("/object_info", "/object_info/LoadImage"):
            assert "own.png" in choices(program, path)
            assert "own.mp4" not in choices(program, path)
            assert "own.png" not in choices(Program("10.0.0.2"), path)
        etags = {
            who.ask("GET", "/object_info").headers["ETag"] for who in (program, Program("10.0.0.2"))
        }
        assert len(etags) == 2
        packed = program.ask("GET", "/object_info", accept_encoding="gzip")
        assert b"own.png" in gzip.decompress(packed.content)


def test_lists_of_models_are_those_of_all_machines(
    program: Program, versions: tuple[SimulatorThread, SimulatorThread]
) -> None:
    assert program.ask("GET", "/models").status_code == 503
    machine(versions[0].url, OLD)
    machine(versions[1].url, NEW)
    assert program.get("/models") == ["checkpoints", "embeddings", "loras"]
    assert program.get("/models/checkpoints") == ["both.safetensors", ONLY_NEW, ONLY_OLD]
    assert program.get("/embeddings") == []
    assert program.ask("GET", "/models/no-such-folder").status_code == 404
    names = [one["name"] for one in program.get("/api/experiment/models")]
    assert names == ["checkpoints", "loras", "embeddings"]
    files = program.get("/experiment/models/checkpoints")
    assert sorted(one["name"] for one in files) == ["both.safetensors", ONLY_NEW, ONLY_OLD]
