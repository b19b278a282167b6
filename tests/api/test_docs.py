import importlib.util
import json
import re

import yaml
from django.urls import get_resolver
from pytest_django import Settings

from backends.errors import RequestError
from director.web.errors import _PLAIN
from jobgroups.errors import ComfyApiError
from jobgroups.workflow import ALIASES
from tests.harness.processes import ROOT

TEXT = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")

#: Codes of statuses that nothing answers with yet, and of classes that only others derive from.
_UNUSED = {"unavailable", "error", "conflict"}


def _section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def _codes(root: type[RequestError]) -> set[str]:
    return {root.code}.union(*(_codes(one) for one in root.__subclasses__()))


def test_docs_describe_every_path_with_a_call() -> None:
    for pattern in get_resolver("jobgroups.api.urls").url_patterns:
        path = re.sub(r"<(?:str|path):(\w+)>", lambda m: "{" + m[1] + "}", str(pattern.pattern))
        path = path.rstrip("/").replace("{group_id}", "{id}").replace("{backend_id}", "{id}")
        assert f"/api/{path}`" in TEXT
    headings = len(re.findall(r"^##+ `[A-Z]+ /api/", TEXT, re.MULTILINE))
    assert TEXT.count("curl ") == headings


def test_docs_name_every_field_and_parameter() -> None:
    document = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text(encoding="utf-8"))
    names = {
        name
        for schema in document["components"]["schemas"].values()
        for name in schema.get("properties", {})
    }
    names |= {
        parameter["name"]
        for path in document["paths"].values()
        for operation in path.values()
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "query"
    }
    assert len(names) > 200
    assert names - set(re.findall(r"[`\"?&](\w+)(?=[`\"=])", TEXT)) == set()


def test_docs_list_every_event_with_its_fields() -> None:
    text = (ROOT / "docs" / "asyncapi.yaml").read_text(encoding="utf-8")
    components = yaml.safe_load(text)["components"]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", _section("The event stream"), re.MULTILINE))
    events = 0
    for name, message in components["messages"].items():
        if name.startswith(("group_", "child_")):
            events += 1
            schema = components["schemas"][message["payload"]["$ref"].rpartition("/")[2]]
            fields = schema["properties"].keys() - {"type", "seq", "run", "truncated"}
            assert fields <= set(re.findall(r"`(\w+)`", rows[name])), name
    assert events > 10


def test_health_of_the_docs_is_one_that_operators_find() -> None:
    [example] = re.findall(r"```json\n(.*?)```", _section("`GET /api/health`"), re.DOTALL)
    operations = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (\w+) \|", operations, re.MULTILINE)
    listed = {(name, re.sub(r"[\d.]+ ", "N ", text), status) for name, text, status in rows}
    for name, check in json.loads(example)["checks"].items():
        detail = re.sub(r"[\d.]+ ", "N ", check["detail"]).replace("localhost_8190.", "…")
        assert (name, detail, check["status"]) in listed


def test_docs_list_every_alias_of_a_parameter() -> None:
    listed = re.findall(r"^\| `(\w+)` \| (`.*`) \|$", _section("Parameters"), re.MULTILINE)
    assert {name: tuple(re.findall(r"`(\w+)`", text)) for name, text in listed} == ALIASES


def test_docs_list_every_error_code() -> None:
    listener = (ROOT / "docs" / "comfyui-listener.md").read_text(encoding="utf-8")
    errors = _section("Error codes") + listener.split("\n## Errors\n")[1]
    first_cells = re.findall(r"^\| (`.*?`) \|", errors, re.MULTILINE)
    listed = {code for cell in first_cells for code in re.findall(r"`(\w+)`", cell)}
    known = _codes(RequestError) | {code for code, _ in _PLAIN.values()}
    known |= {"origin_not_allowed", "database_unavailable", "sign_in_required", "invalid_secret"}
    assert listed == known - _UNUSED - {one.code for one in ComfyApiError.__subclasses__()} | {
        "asset_in_use"
    }


def test_limits_of_the_docs_are_those_of_the_settings(settings: Settings) -> None:
    limits = _section("Limits of requests")
    assert f"{settings.DIRECTOR_MAX_BODY_BYTES // 2**20} MiB" in limits
    assert f"{settings.DIRECTOR_MAX_CHILDREN:,}" in limits
    assert f"{settings.DIRECTOR_MAX_METADATA_BYTES // 2**10} KiB" in limits


def test_generated_parts_of_pages_are_not_stale() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for file, text in generate.documents().items():
        assert file.read_text(encoding="utf-8") == text, f"{file.name} is stale: run `make docs`"
