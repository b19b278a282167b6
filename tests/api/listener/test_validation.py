"""A prompt is refused at the ComfyUI listener as a ComfyUI refuses it, and only if no machine can
execute it.
"""

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from backends import inventory, services
from jobgroups.domain.clock import now
from jobgroups.domain.states import PartialOutputs
from jobgroups.models import Runner
from tests.api.conftest import LATER
from tests.api.listener.conftest import Program, group_of
from tests.harness.graphs import node, text_to_image
from tests.harness.simulator_thread import SimulatorThread
from tests.harness.waits import until

pytestmark = pytest.mark.django_db

NEW = "0.33.0"
Graph = dict[str, Any]


def changed(**inputs: Any) -> Graph:
    """Return a workflow with other inputs: ``_3_steps=0`` is ``steps`` of node 3."""
    graph = text_to_image()
    for slot, value in inputs.items():
        _, node_id, name = slot.split("_", 2)
        graph[node_id]["inputs"][name] = value
    return graph


def without(node_id: str, name: str) -> Graph:
    graph = text_to_image()
    del graph[node_id]["inputs"][name]
    return graph


def with_node(**nodes: Any) -> Graph:
    return text_to_image() | {name.removeprefix("_"): value for name, value in nodes.items()}


WRONG: dict[str, Callable[[], Graph]] = {
    "unknown class": lambda: with_node(_20=node("NoSuchNode", "My node")),
    "no class": lambda: with_node(_20={"inputs": {}}),
    "no output": lambda: {"4": text_to_image()["4"]},
    "unknown model": lambda: changed(_4_ckpt_name="missing.safetensors"),
    "long list": lambda: changed(_3_sampler_name="no-sampler"),
    "short list": lambda: changed(_3_scheduler="no-scheduler"),
    "missing input": lambda: without("3", "steps"),
    "missing link": lambda: without("9", "images"),
    "too small": lambda: changed(_3_steps=0),
    "too large": lambda: changed(_5_width=1_000_000),
    "no number": lambda: changed(_3_steps="many"),
    "long link": lambda: changed(_3_model=["4", 0, 1]),
    "wrong type": lambda: changed(_9_images=["5", 0]),
    "cycle": lambda: changed(_3_latent_image=["3", 0]),
    "unknown file": lambda: {
        "1": node("LoadImage", image="missing.png"),
        "9": node("SaveImage", images=["1", 0], filename_prefix="x"),
    },
    "two at once": lambda: changed(_3_steps=0, _4_ckpt_name="missing.safetensors"),
    "two outputs": lambda: changed(_3_steps=0) | {"10": text_to_image()["9"]},
}


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorThread]:
    with SimulatorThread(version=NEW) as sims:
        yield sims


def online(url: str) -> str:
    row = services.backend_create(url=url)
    services.backend_observed(
        backend_id=row.id, reachable=True, version=NEW, devices=[], reason="", seen_at=now() + LATER
    )
    return row.id


@pytest.fixture
def program(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> Program:
    # Also on a busy machine the machines are known.
    monkeypatch.setattr("jobgroups.api.listener.validation._CHECK_SECONDS", 60.0)
    return Program()


def body_of(answer: Any) -> Any:
    return json.loads(answer.content)


@pytest.mark.parametrize("wrong", WRONG)
def test_error_is_that_of_comfyui(program: Program, simulator: SimulatorThread, wrong: str) -> None:
    online(simulator.url)
    body = {"prompt": WRONG[wrong]()}
    comfyui = httpx.post(f"{simulator.url}/prompt", json=body, trust_env=False)
    assert comfyui.status_code == 400
    answer = program.ask("POST", "/prompt", body)
    assert (answer.status_code, body_of(answer)) == (400, comfyui.json())


@pytest.mark.parametrize("body", [{}, {"prompt": text_to_image(), "prompt_id": "mine"}])
def test_error_of_a_body_is_that_of_comfyui(
    program: Program, simulator: SimulatorThread, body: dict[str, Any]
) -> None:
    online(simulator.url)
    comfyui = httpx.post(f"{simulator.url}/prompt", json=body, trust_env=False)
    answer = program.ask("POST", "/prompt", body)
    assert (answer.status_code, body_of(answer)) == (400, comfyui.json())


def test_partly_valid_prompt_is_accepted_with_its_node_errors(
    program: Program, simulator: SimulatorThread
) -> None:
    online(simulator.url)
    graph = text_to_image()
    graph |= {"10": node("SaveImage", filename_prefix="x")}
    comfyui = httpx.post(f"{simulator.url}/prompt", json={"prompt": graph}, trust_env=False)
    answer = program.post("/prompt", {"prompt": graph})
    assert answer["node_errors"] == comfyui.json()["node_errors"] != {}
    assert group_of(answer["prompt_id"]).partial_outputs == PartialOutputs.ACCEPT


def loaders(*names: str) -> Graph:
    """Return a workflow that loads several checkpoints for several outputs."""
    graph: Graph = {}
    for number, name in enumerate(names):
        one = text_to_image(checkpoint=name)
        graph |= {
            f"{number}{node_id}": {
                **part,
                "inputs": {
                    key: [f"{number}{value[0]}", value[1]] if isinstance(value, list) else value
                    for key, value in part["inputs"].items()
                },
            }
            for node_id, part in one.items()
        }
    return graph


def test_one_machine_must_have_all_that_a_prompt_needs(program: Program) -> None:
    with (
        SimulatorThread(version=NEW, checkpoints=("a.ckpt", "common.ckpt")) as first,
        SimulatorThread(version=NEW, checkpoints=("b.ckpt", "common.ckpt")) as second,
        SimulatorThread(version=NEW, checkpoints=("b.ckpt", "common.ckpt")) as third,
    ):
        for machine in (first, second, third):
            online(machine.url)
        for names in (("a.ckpt", "common.ckpt"), ("b.ckpt", "common.ckpt")):
            accepted = program.post("/prompt", {"prompt": loaders(*names)})
            assert accepted["node_errors"] == {}
            # A machine that lacks a part must not execute the rest.
            assert group_of(accepted["prompt_id"]).partial_outputs == PartialOutputs.FAIL
        chain = loaders("a.ckpt")
        chain["1"] = node("CheckpointLoaderSimple", ckpt_name="b.ckpt")
        chain["03"]["inputs"]["model"] = ["1", 0]
        answer = program.ask("POST", "/prompt", {"prompt": chain})
        assert answer.status_code == 400
        ((node_id, entry),) = body_of(answer)["node_errors"].items()
        (error,) = entry["errors"]
        assert (node_id, error["type"]) == ("04", "value_not_in_list")
        assert error["details"].startswith("ckpt_name: 'a.ckpt': 1 of 3 machines can execute it")
        assert entry["dependent_outputs"] == ["09"]
        answer = program.ask("POST", "/prompt", {"prompt": loaders("nowhere.ckpt")})
        (error,) = body_of(answer)["node_errors"]["04"]["errors"]
        listed = error["extra_info"]["input_config"][0]
        assert sorted(listed) == ["a.ckpt", "b.ckpt", "common.ckpt"]


def test_new_file_of_a_machine_is_found_before_a_refusal(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobgroups.api.listener.validation._REFUSED_SECONDS", 0.0)
    with SimulatorThread(version=NEW) as sims:
        online(sims.url)
        graph = WRONG["unknown file"]()
        assert program.ask("POST", "/prompt", {"prompt": graph}).status_code == 400
        form = {"image": ("missing.png", b"picture", "image/png")}
        httpx.post(f"{sims.url}/upload/image", files=form, trust_env=False).raise_for_status()
        assert program.post("/prompt", {"prompt": graph})["node_errors"] == {}


@pytest.mark.parametrize("name", ["shots/missing.png", "made.png [output]"])
def test_file_that_no_machine_has_is_refused_as_by_comfyui(
    program: Program, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Lists of choices have no files of folders, and none of outputs: the machines are queried."""
    monkeypatch.setattr("jobgroups.api.listener.validation._REFUSED_SECONDS", 0.0)
    graph = WRONG["unknown file"]()
    graph["1"]["inputs"]["image"] = name
    body = {"prompt": graph}
    with SimulatorThread(version=NEW) as first, SimulatorThread(version=NEW) as second:
        for machine in (first, second):
            online(machine.url)
        comfyui = httpx.post(f"{first.url}/prompt", json=body, trust_env=False)
        answer = program.ask("POST", "/prompt", body)
        assert (answer.status_code, body_of(answer)) == (400, comfyui.json())
        path, _, folder = name.partition(" ")
        subfolder, _, filename = path.rpartition("/")
        fields = {"subfolder": subfolder, "type": folder.strip("[]") or "input"}
        form = {"image": (filename, b"picture", "image/png")}
        upload = f"{second.url}/upload/image"
        httpx.post(upload, files=form, data=fields, trust_env=False).raise_for_status()
        assert program.post("/prompt", body)["node_errors"] == {}


def test_prompt_waits_while_no_machine_answers(program: Program) -> None:
    row = online("http://nowhere.invalid:8188")
    services.backend_observed(backend_id=row, reachable=False, reason="It is off.")
    assert program.post("/prompt", {"prompt": text_to_image()})["node_errors"] == {}


@contextlib.contextmanager
def machine_with(classes: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Run a machine that has node classes; yield its URL, and the paths that were requested."""
    paths: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            name = self.path.rpartition("/")[2]
            body = json.dumps({name: classes[name]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.02,))
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}", paths
        server.shutdown()
        serving.join()


def loader_of(*models: str) -> dict[str, Any]:
    return {
        "input": {"required": {"model": [list(models)]}},
        "output_node": True,
        "python_module": "nodes",
    }


LOADING = {"1": node("Loader", model="a.ckpt")}


def test_checks_of_a_prompt_share_one_reading_of_its_classes(program: Program) -> None:
    with machine_with({"Loader": loader_of("a.ckpt")}) as (url, paths):
        online(url)
        for _ in range(2):
            program.post("/prompt", {"prompt": LOADING})
    assert paths == ["/object_info/Loader"]


def test_model_that_was_removed_is_refused_after_a_minute(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = {"Loader": loader_of("a.ckpt")}
    with machine_with(classes) as (url, _):
        online(url)
        program.post("/prompt", {"prompt": LOADING})
        classes["Loader"] = loader_of("b.ckpt")
        # Within the minute, what is kept is used.
        program.post("/prompt", {"prompt": LOADING})
        monkeypatch.setattr(inventory, "FRESH_SECONDS", 0.0)
        until(lambda: program.ask("POST", "/prompt", {"prompt": LOADING}).status_code == 400, 30.0)
