"""The OpenAPI document of the API and the AsyncAPI document of its WebSockets: ``make docs`` writes
them into ``docs``.

Paths and parameters come from the URL table, bodies from the serializers of requests, responses and
frames from ``jobgroups.domain.shapes``, texts, examples and errors from ``docs/api.md``.
``schema.toml`` has what none of these contains.
"""

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import is_dataclass
from enum import StrEnum
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml
from django.conf import settings
from drf_spectacular.generators import EndpointEnumerator, SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ResolvedComponent
from drf_spectacular.settings import spectacular_settings
from rest_framework.views import APIView

from backends.states import BackendState
from jobgroups.api.requests import fields, payloads, query_params
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.shapes import (
    Parsed,
    accounts,
    assets,
    audit,
    backends,
    events,
    groups,
    webhooks,
)
from jobgroups.domain.states import AttemptState, ChildStatus, GroupStatus

Schema = dict[str, Any]

_FOLDER: Final = Path(__file__).parent
_TABLE: Final = tomllib.loads((_FOLDER / "schema.toml").read_text(encoding="utf-8"))
_API: Final = (_FOLDER / "api.md").read_text(encoding="utf-8")
_TYPES: Final = "#/components/schemas/"
_IN_JSON: Final = {"None": "null", "True": "true", "False": "false"}
_OBJECT: Final = {"type": "object", "required": []}
#: The values of fields that the shapes have as text.
_VALUES: Final = {
    "GroupRow.status": GroupStatus,
    "Child.status": ChildStatus,
    "Attempt.outcome": AttemptState,
    "Backend.status": BackendState,
    "Child.failure_class": FailureClass,
    "Attempt.failure_class": FailureClass,
}

# --- docs/api.md
# ------------------------------------------------------------------------------------


@cache
def _section(operation: str) -> str:
    """Return what the page has about an operation such as ``GET /api/job-groups/{group_id}``;
    empty: nothing.
    """
    heading = re.sub(r"\{(group|backend)_id\}", "{id}", operation)
    found = re.search(
        rf"^##+ `{re.escape(heading)}`\n(.*?)(?=^###? |\Z)", _API, re.DOTALL | re.MULTILINE
    )
    return found[1] if found else ""


def _rows(text: str) -> dict[str, str]:
    """Return the last cell of each row of its tables by the names in the first one."""
    rows = re.findall(r"^\| (`[^|]*`) \|(?:.*(?<!\\)\|)? (.+?) \|$", text, re.MULTILINE)
    return {name: cell for names, cell in rows for name in re.findall(r"`([\w.-]+)`", names)}


def _example(block: str) -> Any:
    try:
        return json.loads(block)
    except ValueError:
        return None  # shortened in the text


@cache
def error_codes() -> dict[str, tuple[int, str]]:
    """Return status and meaning of each code of an error."""
    table = _API.split("\n## Error codes\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.+?`) \| (\d+) \| ?(.*?) \|$", table, re.MULTILINE)
    return {
        code: (int(status), text)
        for codes, status, text in rows
        for code in re.findall(r"`(\w+)`", codes)
    }


# --- responses and frames
# ---------------------------------------------------------------------------


def _texts(kind: type) -> tuple[str, dict[str, str]]:
    """Return the description of a shape and those of its attributes, from its docstring."""
    texts: dict[str, str] = {}
    bases = [
        (one.__doc__ or "").partition("Attributes:\n")
        for one in reversed(kind.__mro__)
        if is_dataclass(one)
    ]
    for names, text in re.findall(
        r"^ {8}([\w, ]+): (.*(?:\n {9,}.*)*)",
        "\n".join(attributes for *_, attributes in bases),
        re.MULTILINE,
    ):
        in_json = re.sub(
            r"\b(None|True|False)\b", lambda word: _IN_JSON[word[1]], re.sub(r"\s+", " ", text)
        )
        texts |= dict.fromkeys(names.split(", "), in_json)
    return re.sub(r"\s+", " ", bases[-1][0]).strip(), texts


@cache
def types() -> dict[str, Schema]:
    """Return the JSON schemas of all answers and frames. Every field is in an answer, except the
    optional ones.
    """
    members = [
        one
        for module in (groups, backends, assets, webhooks, accounts, audit, events)
        for one in vars(module).values()
    ]
    kinds = [
        one for one in members if isinstance(one, type) and is_dataclass(one) and one is not Parsed
    ]
    _, found = msgspec.json.schema_components(kinds, ref_template=f"{_TYPES}{{name}}")
    known = {kind.__name__: _of_shape(kind, found[kind.__name__]) for kind in kinds}
    for name, changes in _TABLE["schemas"].items():
        known[name] = _changed(deepcopy(known.get(changes.get("of", name), {})), changes)
    for schema in known.values():
        optional = schema.pop("optional", ())
        if "properties" in schema and "required" in schema:
            schema["required"] = [name for name in schema["properties"] if name not in optional]
    return known


def _of_shape(kind: type, schema: Schema) -> Schema:
    description, texts = _texts(kind)
    properties = {name: one for name, one in schema["properties"].items() if name != "raw"}
    for name, field in properties.items():
        field.pop("default", None)
        if name in texts:
            field["description"] = texts[name]
        if name == "type" and issubclass(kind, events.Event):
            properties[name] = {"const": events.type_of(kind)}
        elif name in ("seq", "run"):
            properties[name] = {"type": "integer", "description": field.get("description", "")}
        if values := _VALUES.get(f"{kind.__name__}.{name}"):
            text = next(
                one for one in [field, *field.get("anyOf", ())] if one.get("type") == "string"
            )
            text["enum"] = [one.value for one in values]
    optional = []
    if issubclass(kind, events.Event):
        properties["truncated"], optional = dict(_TABLE["truncated"]), ["truncated"]
    return {"description": description, **_OBJECT, "properties": properties, "optional": optional}


def _changed(schema: Schema, changes: Mapping[str, Any]) -> Schema:
    """Apply a table of ``schemas`` in ``schema.toml``."""
    if "schema" in changes:
        return dict(changes["schema"])
    if "page_of" in changes:
        url = {"type": ["string", "null"]}
        rows = {"type": "array", "items": {"$ref": _TYPES + changes["page_of"]}}
        schema = {"properties": {"results": rows, "next": url, "previous": url}}
    given = schema.setdefault("properties", {}) | changes.get("add", {})
    kept = changes.get("only", [name for name in given if name not in changes.get("without", ())])
    schema["properties"] = {name: given[name] for name in [*kept, *(changes.get("add", {}))]}
    return {
        **_OBJECT,
        **schema,
        "optional": [*schema.get("optional", ()), *changes.get("optional", ())],
    }


# --- operations
# -------------------------------------------------------------------------------------


class _Endpoints(EndpointEnumerator):
    """The paths of the API without the slash at their end."""

    def should_include_endpoint(self, path: str, callback: Callable[..., Any]) -> bool:
        is_ours = (
            path.startswith("/api/") and not path.startswith("/api/v2/") and not path.endswith("/")
        )
        return is_ours and hasattr(callback, "view_class")

    def get_allowed_methods(self, callback: Any) -> list[str]:
        methods = callback.view_class().allowed_methods
        return [one for one in methods if one not in ("HEAD", "OPTIONS")]


class _Generator(SchemaGenerator):
    endpoint_inspector_cls = _Endpoints

    def create_view(self, callback: Any, method: str, request: object = None) -> APIView:
        """Return a view of DRF that stands for any view."""
        view = APIView()
        self._set_schema_to_view(view, _Operation(getattr(callback.view_class, method.lower())))
        return view


class _Operation(AutoSchema):
    """One method of one path, as its handler, its row in ``schema.toml`` and its section of the
    page describe it.
    """

    def __init__(self, handler: Callable[..., Any]) -> None:
        super().__init__()
        self.handler = handler

    def get_operation(
        self, path: str, path_regex: str, path_prefix: str, method: str, registry: Any
    ) -> Schema | None:
        self.name = f"{method} {path}"
        if self.name not in _TABLE["operations"]:
            raise SystemExit(
                f"docs/schema.toml has no row for {self.name}: add it, then run `make docs`."
            )
        self.row = _TABLE["operations"][self.name]
        self.texts = _rows(_section(self.name))
        return super().get_operation(path, path_regex, path_prefix, method, registry)

    def get_operation_id(self) -> str:
        return re.sub(
            r"\W+", "_", f"{self.method.lower()} {self.path.removeprefix('/api/')}"
        ).strip("_")

    def get_summary(self) -> str:
        sentence = (self.handler.__doc__ or "").partition("\n\n")[0]
        return " ".join(sentence.split()).removesuffix(".")

    def get_description(self) -> str:  # type: ignore[override]  # as the library does
        paragraph = _section(self.name).strip().partition("\n\n")[0].replace("\n", " ")
        text = "" if paragraph.startswith(("```", "|")) else f"{paragraph} "
        anchor = re.sub(
            r"[^\w\- ]", "", re.sub(r"\{(group|backend)_id\}", "id", self.name).lower()
        ).replace(" ", "-")
        return _linked(f"{text}[More](api.md#{anchor})")

    def get_tags(self) -> list[str]:
        return [self.handler.__module__.rpartition(".")[2].capitalize()]

    def get_auth(self) -> list[Schema]:
        return []

    def get_response_serializers(self) -> Any:
        return {}

    def get_override_parameters(self) -> list[Any]:
        query = self.row.get("query")
        return [getattr(query_params, query)] if query else []

    def _get_parameters(self) -> list[Schema]:
        parameters: list[Schema] = super()._get_parameters()
        for one in (parameter for parameter in parameters if parameter["in"] == "query"):
            one["schema"].pop("minLength", None)  # an empty parameter counts as absent
            is_metadata = one["name"] == "metadata"
            if text := self.texts.get("metadata.KEY" if is_metadata else one["name"]):
                one["description"] = _linked(text)
            if is_metadata:
                one.update(style="form", explode=True)
        headers = [deepcopy(_TABLE["headers"][name]) for name in self.row.get("headers", ())]
        return [*parameters, *headers]

    def _get_request_body(self, direction: Any = "request") -> Schema | None:
        if "upload" in self.row:
            kind, schema = self.row["upload"], _TABLE["uploads"][self.row["upload"]]
            return {"content": {kind: {"schema": deepcopy(schema)}}, "required": True}
        if "body" not in self.row:
            return None
        component = self.resolve_serializer(getattr(payloads, self.row["body"]), direction)
        for name, field in component.schema.get("properties", {}).items():
            if name in self.texts:
                field.setdefault("description", _linked(self.texts[name]))
        media: Schema = {"schema": component.ref}
        if (sent := re.search(r"-d '(.*?)'\n```", _section(self.name), re.DOTALL)) and (
            body := _example(sent[1])
        ):
            media["example"] = body
        return {
            "content": {"application/json": media},
            "required": not self.row.get("optional", False),
        }

    def _get_response_bodies(self, direction: str = "response") -> Schema:
        statuses, answer = (
            [self.row.get("status", 200), *self.row.get("also", ())],
            self.row.get("answer"),
        )
        found: Schema = {str(one): {"description": HTTPStatus(one).phrase} for one in statuses}
        if answer is not None:
            binary = {"type": "string", "format": "binary"}
            content = {
                answer: {"schema": _TABLE["event"] if answer == "text/event-stream" else binary}
            }
            if "/" not in answer:
                content = {"application/json": {"schema": {"$ref": _TYPES + answer}}}
                examples = map(
                    _example, re.findall(r"```json\n(.*?)```", _section(self.name), re.DOTALL)
                )
                if example := next((one for one in examples if one is not None), None):
                    content["application/json"]["example"] = example
                if "or" in self.row:
                    content[self.row["or"]] = {"schema": {"type": "string"}}
            for one in statuses:
                if one not in (304, 307):
                    found[str(one)]["content"] = deepcopy(content)
        for number, codes in sorted(self._errors().items()):
            found[str(number)] = self._error(codes, found.get(str(number)))
        return found

    def _error(self, codes: list[str], answer: Schema | None) -> Schema:
        """Return the response with these errors; ``answer`` is the answer with the same status."""
        texts = "\n".join(
            f"- `{code}`: {error_codes()[code][1]}".removesuffix(": ") for code in codes
        )
        schema: Schema = {"$ref": f"{_TYPES}Error", "properties": {"code": {"enum": codes}}}
        if answer is not None:
            schema = {"anyOf": [answer["content"]["application/json"]["schema"], schema]}
        response = {
            "description": _linked(texts),
            "content": {"application/json": {"schema": schema}},
        }
        if answer is not None:
            return response
        component = ResolvedComponent("-".join(codes), ResolvedComponent.RESPONSE, response, codes)
        self.registry.register_on_missing(component)
        return component.ref

    def _errors(self) -> dict[int, list[str]]:
        of_path = [code for name, code in _TABLE["codes"].items() if f"{{{name}}}" in self.path]
        of_row = [code for name in self.row for code in _TABLE["codes"].get(name, "").split()]
        codes = [
            *_TABLE["codes"]["always"].split(),
            *self.row.get("errors", "").split(),
            *of_path,
            *of_row,
        ]
        by_status: dict[int, list[str]] = {}
        for code in dict.fromkeys(codes):
            by_status.setdefault(error_codes()[code][0], []).append(code)
        return by_status

    def _map_serializer(
        self, serializer: Any, direction: str, bypass_extensions: bool = False
    ) -> Schema:
        schema: Schema = super()._map_serializer(serializer, direction, bypass_extensions)
        if serializer.unknown:
            schema["additionalProperties"] = False
        return schema

    def _map_serializer_field(
        self, field: Any, direction: str, bypass_extensions: bool = False
    ) -> Schema:
        if isinstance(field, fields.Texts):
            schema: Schema = {
                "type": "array",
                "items": {"type": "string", "minLength": 1, "maxLength": field.longest},
            }
            schema |= {} if field.allow_empty else {"minItems": 1}
            schema |= {} if field.most is None else {"maxItems": field.most}
        elif isinstance(field, fields.Choice):
            schema = {
                "enum": [one.value if isinstance(one, StrEnum) else one for one in field.meanings]
            }
        elif (declared := _TABLE["fields"].get(type(field).__name__.strip("_"))) is not None:
            schema = deepcopy(declared)
        elif isinstance(field, fields.Anything):
            schema = deepcopy(_TABLE["fields"][field.field_name])
        else:
            schema = super()._map_serializer_field(field, direction, bypass_extensions)
        is_query = isinstance(field.parent, query_params.QuerySerializer)
        if field.required or is_query:
            return schema
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
        if isinstance(schema.get("type"), str):
            schema["type"] = [schema["type"], "null"]
        return schema


def _linked(text: str) -> str:
    """Return a text of the page with links to the pages of the documentation."""
    return re.sub(
        r"\]\((?:([a-z-]+)\.md)?(#[\w-]*)?\)",
        lambda found: f"](/docs/{found[1] or 'api'}{found[2] or ''})",
        text,
    )


def openapi() -> Schema:
    """Return the OpenAPI document."""
    spectacular_settings.apply_patches({**_TABLE["library"], "VERSION": settings.DIRECTOR_VERSION})
    document: Schema = _Generator().get_schema(public=True)
    error = deepcopy(_TABLE["error"])
    error["properties"]["code"] = {"type": "string", "enum": sorted(error_codes())}
    document["components"]["schemas"] |= {**types(), "Error": error}
    document["components"]["securitySchemes"] = _TABLE["security"]
    # Without DIRECTOR_TOKEN no credentials are needed.
    document["security"] = [*({name: []} for name in _TABLE["security"]), {}]
    return _without_unused(document)


def asyncapi() -> Schema:
    """Return the AsyncAPI document: the frames of the event stream."""
    document: Schema = deepcopy(_TABLE["asyncapi"])
    document["info"]["version"] = settings.DIRECTOR_VERSION
    kinds = [
        one
        for one in vars(events).values()
        if isinstance(one, type) and issubclass(one, events.Event)
    ]
    frames = {
        events.type_of(kind): kind.__name__
        for kind in kinds
        if kind not in (events.Event, events.ChildEvent)
    }
    frames = {"initial_state": "InitialState", **frames, **_TABLE["frames"]}
    document["components"] = {"messages": {}, "schemas": types()}
    for name, kind in frames.items():
        document["channels"]["job-group"]["messages"][name] = {
            "$ref": f"#/components/messages/{name}"
        }
        document["components"]["messages"][name] = {
            "name": name,
            "payload": {"$ref": _TYPES + kind},
        }
    return _without_unused(document)


def _without_unused(document: Schema) -> Schema:
    """Return the document with those schemas alone that it uses."""
    schemas = document["components"].pop("schemas")
    wanted, used = set(re.findall(rf"{_TYPES}(\w+)", json.dumps(document))), set()
    while wanted:
        used |= wanted
        wanted = {
            other
            for name in wanted
            for other in re.findall(rf"{_TYPES}(\w+)", json.dumps(schemas[name]))
        } - used
    document["components"]["schemas"] = {name: schemas[name] for name in sorted(used)}
    return document


def as_yaml(document: Schema) -> str:
    """Return a document as text, the same for the same code."""
    plain = json.loads(json.dumps(document))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110)
