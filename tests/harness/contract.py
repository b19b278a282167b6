"""Compares answers of the API, and frames of its sockets, with the documents that describe them."""

import json
import re
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import yaml

FOLDER = Path(__file__).parents[2] / "docs"
REMEDY = "Correct docs/schema.toml or the shapes of answers, then run `make docs`."


@cache
def document(name: str = "openapi") -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load(
        (FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), yaml.CSafeLoader
    )
    return loaded


def check_frame(frame: dict[str, Any]) -> None:
    """Fail if the AsyncAPI document does not have a frame of the event stream as it is."""
    message = document("asyncapi")["components"]["messages"].get(frame["type"])
    assert message is not None, f"{frame['type']} is not in docs/asyncapi.yaml. {REMEDY}"
    wrong = problems(message["payload"], frame, "asyncapi")
    assert not wrong, f"{wrong[:5]} {str(frame)[:300]}. {REMEDY}"


@cache
def _operations() -> list[tuple[re.Pattern[str], dict[str, Any]]]:
    """Return the paths, those without parameters first."""
    paths = sorted(document()["paths"].items(), key=lambda one: one[0].count("{"))
    return [
        (
            re.compile(
                re.sub(r"\{\w+\}", "[^/]+", re.escape(path).replace(r"\{", "{").replace(r"\}", "}"))
            ),
            one,
        )
        for path, one in paths
    ]


@cache
def _schemas(name: str) -> dict[str, Any]:
    """Return the schemas of a document. Fields that a type does not have are errors here, other
    than for clients.
    """
    schemas: dict[str, Any] = deepcopy(document(name)["components"]["schemas"])
    for schema in schemas.values():
        if "properties" in schema and schema["properties"].keys() != {"images", "prompt_id"}:
            schema.setdefault("additionalProperties", False)
    return schemas


@cache
def _validator(text: str, name: str) -> Any:
    """Return the validator of a schema, which gets no more than it refers to: to read all schemas
    of a document takes 50 ms.
    """
    schemas, needed, texts = _schemas(name), dict[str, Any](), [text]
    while texts:
        for found in set(re.findall(r'"#/components/schemas/([^"]+)"', texts.pop())) - {*needed}:
            needed[found] = schemas[found]
            texts.append(json.dumps(schemas[found]))
    return jsonschema_rs.Draft202012Validator(
        {**json.loads(text), "components": {"schemas": needed}}, validate_formats=True
    )


def problems(schema: dict[str, Any], value: Any, name: str = "openapi") -> list[str]:
    """Return what does not fit a schema of a document."""
    found = _validator(json.dumps(schema), name).iter_errors(value)
    return [f"{'.'.join(map(str, one.instance_path))}: {one.message}" for one in found]


def check_answer(method: str, path: str, status: int, content_type: str, content: bytes) -> None:
    """Fail if the document does not have an answer of the API as it is; a path that is not in it is
    not checked.
    """
    path = path.partition("?")[0].rstrip("/")
    methods = next((one for pattern, one in _operations() if pattern.fullmatch(path)), {})
    operation = methods.get("get" if method == "HEAD" else method.lower())
    if operation is None:
        return
    if status == 404 and b'"code": "not_found"' in content:
        return  # a path that only looks like this one
    described = operation["responses"].get(str(status))
    assert described is not None, (
        f"{method} {path}: {status} {content[:200]!r} is not in docs/openapi.yaml. {REMEDY}"
    )
    if "$ref" in described:
        described = document()["components"]["responses"][described["$ref"].rpartition("/")[2]]
    kinds = described.get("content", {})
    if (
        method != "HEAD"
        and content_type.startswith("application/json")
        and "application/json" in kinds
    ):
        wrong = problems(kinds["application/json"]["schema"], json.loads(content))
        assert not wrong, f"{method} {path}: {wrong[:5]} {content[:300]!r}. {REMEDY}"
