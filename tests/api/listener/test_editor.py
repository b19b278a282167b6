"""ComfyUI's editor at the ComfyUI listener: its files, and what it keeps for its user."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest

from jobgroups.api.listener import editor
from jobgroups.domain.access import EVERYBODY, Principal, Right
from jobgroups.models import Asset, AssetUse, InputFile
from jobgroups.queries.input_files import farm_file
from jobgroups.services import user_files
from tests.api.listener.conftest import GRAPH, Program, group_of
from tests.harness import factories

pytestmark = pytest.mark.django_db(transaction=True)
WORKFLOW = b'{"nodes": []}'


def url(path: str, query: str = "") -> str:
    return f"/api/userdata/{quote(path, safe='')}{query}"


def save(program: Program, path: str, content: bytes = WORKFLOW, query: str = "") -> Any:
    return program.ask("POST", url(path, query), content)


@pytest.fixture
def anna() -> Program:
    return Program("10.0.0.4")


def test_a_saved_workflow_is_listed_read_moved_and_deleted(anna: Program) -> None:
    for path in ("workflows/cat.json", "workflows/night/owl.json", "user.css"):
        assert save(anna, path).json() == path
    stored = save(anna, "workflows/cat.json", b"{}", "?full_info=true").json()
    assert (stored["path"], stored["size"]) == ("workflows/cat.json", 2)
    assert anna.get("/api/userdata?dir=workflows") == ["cat.json"]
    assert anna.get("/api/userdata?dir=workflows&recurse=true&split=true") == [
        ["cat.json", "cat.json"],
        ["night/owl.json", "night", "owl.json"],
    ]
    infos = anna.get("/api/userdata?dir=workflows&recurse=true&split=false&full_info=true")
    assert [info["size"] for info in infos] == [2, len(WORKFLOW)]
    tree = anna.get("/api/v2/userdata?path=workflows")
    assert [(entry["type"], entry["path"]) for entry in tree] == [
        ("directory", "workflows/night"),
        ("file", "workflows/cat.json"),
        ("file", "workflows/night/owl.json"),
    ]
    read = anna.ask("GET", url("workflows/night/owl.json"))
    assert (read.content, read["Content-Disposition"]) == (WORKFLOW, "attachment")
    assert anna.ask("GET", url("user.css"))["Content-Type"] == "text/css"
    to = quote("workflows/owl.json", safe="")
    moved = anna.ask("POST", url("workflows/night/owl.json", f"/move/{to}?overwrite=false"))
    assert moved.json() == "workflows/owl.json"
    taken = anna.ask("POST", url("workflows/cat.json", f"/move/{to}?overwrite=false"))
    assert taken.status_code == 409
    assert anna.ask("DELETE", url("workflows/cat.json")).status_code == 204
    assert anna.get("/api/userdata?dir=workflows&recurse=true") == ["owl.json"]
    # A browser logs an error for a style sheet of another type, even if it is not there.
    for path, kind in ((url("workflows/cat.json"), "text/plain"), ("/user.css", "text/css")):
        gone = anna.ask("GET", path)
        assert (gone.status_code, gone["Content-Type"]) == (404, kind)
    assert anna.ask("GET", "/userdata?dir=subgraphs").status_code == 404
    assert anna.ask("GET", "/userdata").status_code == 400


def test_a_folder_named_move_is_a_folder(anna: Program) -> None:
    assert save(anna, "workflows/move/a.json").json() == "workflows/move/a.json"


def test_a_file_is_not_replaced_without_overwrite(anna: Program) -> None:
    save(anna, "a.json")
    assert save(anna, "a.json", b"other", "?overwrite=false").status_code == 409
    assert anna.ask("GET", url("a.json")).content == WORKFLOW


@pytest.mark.parametrize("path", ["../a.json", "a/../../b", "/etc/passwd/..", "a\x00b", "..", " "])
def test_a_path_that_leads_out_of_the_folder_is_refused(anna: Program, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        assert anna.ask(method, url(path), WORKFLOW).status_code in (400, 404)
    assert not InputFile.objects.exists()
    save(anna, "a.json")
    encoded = quote(path, safe="")
    for moved in (f"a.json/move/{encoded}", f"{encoded}/move/a.json"):
        assert anna.ask("POST", f"/userdata/{moved}").status_code in (400, 404)
    for query in (f"/userdata?dir={encoded}", f"/v2/userdata?path={encoded}"):
        assert anna.ask("GET", query).status_code in (400, 404)
    assert [row.path for row in InputFile.objects.all()] == ["a.json"]


def test_each_owner_has_files_and_settings_of_its_own(anna: Program) -> None:
    save(anna, "workflows/a.json")
    anna.post("/settings/Comfy.ColorPalette", "dark")
    anna.post("/api/settings", {"Comfy.Locale": "de", "Comfy.ColorPalette": "light"})
    assert anna.get("/settings/Comfy.ColorPalette") == "light"
    assert anna.get("/settings/Comfy.Unknown") is None
    bert = Program("10.0.0.5")
    assert bert.get("/settings") == {}
    assert bert.ask("GET", "/userdata?dir=workflows").status_code == 404
    assert bert.ask("DELETE", url("workflows/a.json")).status_code == 404
    save(bert, "workflows/a.json", b"bert")
    assert anna.ask("GET", url("workflows/a.json")).content == WORKFLOW
    assert anna.get("/settings") == {"Comfy.ColorPalette": "light", "Comfy.Locale": "de"}


def test_a_file_and_all_files_of_an_owner_have_limits(
    anna: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    too_long = anna.ask("POST", url("big.json"), b" " * (user_files.MAX_FILE_BYTES + 1))
    assert too_long.status_code == 413
    monkeypatch.setattr(user_files, "MAX_OWNER_BYTES", 100)
    assert save(anna, "a.json", b"a" * 60).status_code == 200
    assert save(anna, "b.json", b"b" * 60).status_code == 413
    # Its own size does not count twice.
    assert save(anna, "a.json", b"c" * 90).status_code == 200
    assert save(Program("10.0.0.5"), "b.json", b"b" * 60).status_code == 200


@pytest.mark.parametrize(
    "value", [b"[" * 100_000, b'"\\ud800"', b"NaN", b'1, "value": 2', b'1, "other": 2', b"", b"{"]
)
def test_a_setting_that_cannot_be_stored_is_refused(anna: Program, value: bytes) -> None:
    assert anna.ask("POST", "/settings/a", value).status_code == 400
    assert anna.ask("POST", "/settings/a%00b", b"1").status_code == 404
    assert anna.get("/settings") == {}


def test_settings_have_limits(anna: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_files, "MAX_FILE_BYTES", 100)
    anna.post("/settings/a", "a" * 60)
    for path, body in (("/settings/b", "b" * 60), ("/settings", {"b": "b" * 60})):
        refused = anna.ask("POST", path, body)
        assert refused.json()["error"]["type"] == "user_storage_full"
    assert anna.get("/settings") == {"a": "a" * 60}
    Program("10.0.0.5").post("/settings/b", "b" * 60)
    monkeypatch.setattr(user_files, "MAX_SETTINGS", 1)
    assert anna.ask("POST", "/settings/b", "b").status_code == 413


def test_files_of_the_editor_are_no_uploads_of_the_farm(anna: Program) -> None:
    save(anna, "a.json")
    assert Asset.objects.get().is_recorded_only
    assert anna.get("/internal/files/input") == []


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed editor of two files."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html><title>ComfyUI</title>")
    (tmp_path / "assets" / "index-B3xY_9-k.js").write_text("1")
    (tmp_path.parent / "secret").write_text("secret")
    monkeypatch.setattr(editor, "_folder", lambda _package, _name: tmp_path)
    return tmp_path


def body(answer: Any) -> bytes:
    return b"".join(answer) if answer.streaming else answer.content


def test_the_editor_is_at_the_root(anna: Program, package: Path) -> None:
    page = anna.ask("GET", "/")
    assert b"<title>ComfyUI</title>" in body(page)
    assert "frame-ancestors 'none'" in page["Content-Security-Policy"]
    assert page["Cache-Control"] == "no-cache"
    script = anna.ask("GET", "/assets/index-B3xY_9-k.js")
    assert "immutable" in script["Cache-Control"]
    assert body(script) == b"1"
    for path in ("/../secret", "/%2e%2e/secret", "/assets/../../secret", "/assets", "/unknown"):
        assert anna.ask("GET", path).status_code == 404, path


def test_a_picture_of_a_template_is_a_grey_field(anna: Program, package: Path) -> None:
    picture = anna.ask("GET", "/templates/cat-1.webp")
    assert (picture.status_code, picture["Content-Type"]) == (200, "image/svg+xml")
    assert anna.ask("GET", "/templates/../../secret").status_code == 404
    assert anna.ask("GET", "/templates/cat.json").status_code == 404
    for path in ("/templates", ""):
        assert anna.ask("GET", f"{path}/{'x' * 300}").status_code == 404


def test_without_the_editor_the_root_says_how_to_get_it(
    anna: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(editor, "_folder", lambda _package, _name: None)
    page = anna.ask("GET", "/")
    assert (page.status_code, b"comfyui-frontend-package" in page.content) == (200, True)
    assert anna.ask("GET", "/index.html").status_code == 404


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that describe two classes."""
    sampler = {
        "input": {"required": {"seed": ["INT"], "steps": ["INT"], "cfg": ["FLOAT"]}},
        "output": ["LATENT"],
        "output_node": False,
        "display_name": "KSampler",
    }
    save = {"input": {"required": {"images": ["LATENT"]}}, "output": [], "output_node": True}
    farm = SimpleNamespace(
        classes={
            name: SimpleNamespace(value=value)
            for name, value in (("KSampler", sampler), ("SaveImage", save))
        }
    )
    monkeypatch.setattr(editor, "farm_nodes", lambda: farm)


def opened(program: Program, group_id: str) -> Any:
    return program.get(f"/api/workflow_templates/director/{group_id}.json")


def test_a_group_is_opened_as_a_template(program: Program, described: None) -> None:
    group = factories.submit(workflow=GRAPH, parameters={"3": {"steps": 30}}, base_seed=7)
    nodes = opened(program, group.pk)["nodes"]
    assert [(node["id"], node["type"]) for node in nodes] == [(3, "KSampler"), (9, "SaveImage")]
    # With the parameters and the seed of its first job; the choice beside the seed is the editor's.
    assert nodes[0]["widgets_values"] == [7, "fixed", 30, 7.0]
    assert nodes[1]["inputs"] == [{"name": "images", "type": "LATENT", "link": 1}]
    # A program's own workflow of the editor comes back as it was sent.
    drawn = {"nodes": [], "links": [], "extra": {"ds": {"scale": 2}}}
    prompt_id = program.prompt(extra_data={"extra_pnginfo": {"workflow": drawn}})
    assert opened(program, group_of(prompt_id).pk) == drawn
    unknown = program.ask("GET", "/workflow_templates/director/jg_000000000000.json")
    assert unknown.status_code == 404


def test_a_workflow_names_an_asset_as_the_machines_have_it(program: Program) -> None:
    asset = factories.asset()
    load = {"class_type": "LoadImage", "inputs": {"image": f"director/{asset.hash}.png"}}
    prompt_id = program.prompt(prompt=GRAPH | {"1": load})
    assert AssetUse.objects.get(group=group_of(prompt_id)).asset == asset
    name = ("input", f"director/{asset.hash}.png")
    assert farm_file(EVERYBODY, *name) == asset
    # Where people see their own work alone, another account's file is not there.
    assert farm_file(Principal(Right.SUBMIT, user_id=0, sees_all=False), *name) is None


def test_the_editor_leads_to_the_pages_of_the_director(program: Program, settings: Any) -> None:
    settings.DIRECTOR_PORT = 9820
    assert program.ask("GET", "/director")["Location"] == "http://localhost:9820/"
    assert program.ask("GET", "/director/newest")["Location"] == "http://localhost:9820/"
    first, second = program.prompt(), program.prompt()
    settings.DIRECTOR_PUBLIC_URL = "https://director.studio.example"
    for name, prompt_id in (("newest", second), (first, first)):
        page = f"https://director.studio.example/groups/{group_of(prompt_id).pk}"
        assert program.ask("GET", f"/director/{name}")["Location"] == page
    # Another owner's prompt is as unknown.
    other = Program("10.0.0.9").ask("GET", f"/director/{first}")
    assert other["Location"] == "https://director.studio.example/"
    script = program.ask("GET", "/extensions/director/editor.js")
    assert script["Content-Type"] == "text/javascript"
    assert b"registerExtension" in script.content
