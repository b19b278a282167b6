"""What clients send, checked: submissions and backends. Nothing here asks the database."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from django.conf import settings

from jobgroups import workflow
from jobgroups.api.requests.fields import Fields
from jobgroups.domain.failures import RETRIED, FailureClass
from jobgroups.domain.states import Elsewhere, PartialOutputs
from jobgroups.errors import InvalidRequest, TooManyChildren
from jobgroups.serializers import compact
from jobgroups.services.groups import digest_of
from jobgroups.workflow.seeds import MAX_SEED, SeedStrategy

DEFAULT_TIMEOUT: Final = 300
_TIMEOUTS: Final = (30, 3600)
_ATTEMPTS: Final = (1, 10)
#: What ``retry_elsewhere`` may be, as JSON has it.
ELSEWHERE: Final = (
    (False, Elsewhere.NEVER),
    (True, Elsewhere.GROUP),
    ("group", Elsewhere.GROUP),
    ("any", Elsewhere.ANY),
)
_MAX_CLASSES: Final = 50
_MAX_CAPABILITIES: Final = 50
_MAX_TAGS: Final = 50
_MAX_HEADERS: Final = 50
_MAX_SHOWN_UNKNOWN: Final = 20
_MAX_NAMED: Final = 200
_MAX_SUBMITTER: Final = 150
#: The longest an entry of a list may be; a longer one names nothing.
_MAX_WORD: Final = 200
_IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?")


# --- a submission ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A submission whose form is right; its backends are yet to be chosen."""

    workflow: dict[str, Any]
    backend_ids: Sequence[str]
    parameters: dict[str, Any]
    seed_strategy: str
    base_seed: int | None
    metadata: dict[str, Any]
    timeout_seconds: int
    required_capabilities: Sequence[str]
    max_attempts: int
    retry_elsewhere: Elsewhere
    #: None: after every failure that may be met by another try.
    retry_on: Sequence[str] | None
    partial_outputs: PartialOutputs
    warnings: Sequence[str]
    #: Who submits it, in their own word; empty where nobody says.
    submitter: str
    idempotency_key: str | None
    idempotency_digest: str


def submission(body: dict[str, Any], idempotency_key: str | None) -> Asked:
    """Check a submission.

    Raises:
        InvalidRequest: with every field that is wrong; ``TooManyChildren`` where too many backends
            are named.
    """
    fields = Fields(body)
    graph = _workflow(fields)
    named = fields.texts("backend_ids", longest=_MAX_WORD, required=True)
    parameters = fields.mapping("parameters") or {}
    asked = Asked(
        workflow=graph or {},
        backend_ids=named or (),
        parameters=parameters,
        seed_strategy=fields.choice("seed_strategy", list(SeedStrategy)) or SeedStrategy.RANDOM,
        base_seed=_base_seed(fields),
        metadata=_metadata(fields),
        timeout_seconds=_timeout(fields),
        required_capabilities=fields.texts(
            "required_capabilities", longest=_MAX_WORD, most=_MAX_CAPABILITIES
        )
        or (),
        max_attempts=_max_attempts(fields),
        retry_elsewhere=_retry_elsewhere(fields),
        retry_on=_retry_on(fields),
        partial_outputs=PartialOutputs(
            fields.choice("partial_outputs", list(PartialOutputs)) or PartialOutputs.ACCEPT
        ),
        submitter=fields.line("submitter", longest=_MAX_SUBMITTER) or "",
        warnings=_ignored(fields),
        idempotency_key=_idempotency_key(fields, idempotency_key),
        idempotency_digest=digest_of(body) if idempotency_key is not None else "",
    )
    if graph is not None and parameters:
        fields.check(lambda: workflow.prepare(graph, parameters))
    too_many = len(asked.backend_ids) > settings.DIRECTOR_MAX_CHILDREN
    if too_many:
        fields.note("backend_ids", f"Must have at most {settings.DIRECTOR_MAX_CHILDREN} entries.")
    fields.finish(TooManyChildren if too_many else InvalidRequest)
    return asked


def _workflow(fields: Fields) -> dict[str, Any] | None:
    """Return the graph if it is one."""
    graph = fields.mapping("workflow_json", required=True)
    if graph is None:
        return None
    try:
        workflow.check_workflow(graph)
    except workflow.WorkflowInvalid as error:
        fields.note(error.field, error.message)
        return None
    return graph


def _base_seed(fields: Fields) -> int | None:
    why = " (2⁵³−1), which every client reads exactly"
    return fields.integer("base_seed", low=0, high=MAX_SEED, why=why)


def _timeout(fields: Fields) -> int:
    low, high = _TIMEOUTS
    return fields.integer("timeout_seconds", low=low, high=high) or DEFAULT_TIMEOUT


def _max_attempts(fields: Fields) -> int:
    low, high = _ATTEMPTS
    given = fields.integer("max_attempts", low=low, high=high)
    return given or int(settings.DIRECTOR_MAX_ATTEMPTS)


def _retry_elsewhere(fields: Fields) -> Elsewhere:
    given = fields.meant("retry_elsewhere", ELSEWHERE)
    return Elsewhere(settings.DIRECTOR_RETRY_ELSEWHERE) if given is None else given


def _retry_on(fields: Fields) -> list[str] | None:
    """Return the failure classes that are named, each once, as the taxonomy orders them."""
    named = fields.texts("retry_on", longest=_MAX_WORD, most=_MAX_CLASSES)
    if named is None:
        return None
    if not named:
        fields.note("retry_on", "Must have at least one entry; leave it out for all of them.")
    known = ", ".join(RETRIED)
    for at, name in enumerate(named):
        if name in RETRIED:
            continue
        never = name in list(FailureClass)
        why = "Is never tried again" if never else "Is no failure class"
        fields.note(f"retry_on.{at}", f"{why}; use some of {known}.")
    return [one.value for one in RETRIED if one in named]


def _metadata(fields: Fields) -> dict[str, Any]:
    metadata = fields.mapping("metadata") or {}
    limit = settings.DIRECTOR_MAX_METADATA_BYTES
    if len(compact(metadata).encode()) > limit:
        fields.note("metadata", f"Must have at most {limit} bytes as JSON.")
    return metadata


def _ignored(fields: Fields) -> list[str]:
    """Return a warning for each field that is not known."""
    unknown = fields.unknown()
    warnings = [f"The field {name} is not known and was ignored." for name in unknown]
    return warnings[:_MAX_SHOWN_UNKNOWN]


def _idempotency_key(fields: Fields, key: str | None) -> str | None:
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        fields.note("Idempotency-Key", "Must be 1 to 255 printable ASCII characters.")
    return key


# --- a backend ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSaid:
    """What a person says of a backend; None is not said."""

    url: str | None
    backend_id: str | None
    name: str | None
    tags: list[str] | None
    enabled: bool | None
    headers: dict[str, str] | None = field(repr=False)


def backend_said(body: dict[str, Any], *, new: bool) -> BackendSaid:
    """Check the registration (``new``) or the change of a backend.

    Raises:
        InvalidRequest: with every field that is wrong. A field that is not known is wrong here:
            an ``enable`` that was meant as ``enabled`` must not pass for done.
    """
    fields = Fields(body)
    said = BackendSaid(
        url=fields.text("url", longest=1000, required=new),
        backend_id=fields.text("backend_id", longest=64),
        name=fields.text("name", longest=_MAX_NAMED),
        tags=fields.texts("tags", longest=_MAX_WORD, most=_MAX_TAGS),
        enabled=fields.flag("enabled"),
        headers=_headers(fields),
    )
    for name in fields.unknown():
        fields.note(name, "Is not a field of a backend that can be set.")
    fields.finish()
    return said


def address_said(body: dict[str, Any]) -> str:
    """Check a body whose only field is ``url``.

    Raises:
        InvalidRequest: with every field that is wrong or not known.
    """
    fields = Fields(body)
    url = fields.text("url", longest=1000, required=True)
    for name in fields.unknown():
        fields.note(name, "Is not a field of an address.")
    fields.finish()
    return url or ""


def _headers(fields: Fields) -> dict[str, str] | None:
    headers = fields.mapping("headers")
    if headers is None:
        return None
    if len(headers) > _MAX_HEADERS:
        fields.note("headers", f"Must have at most {_MAX_HEADERS} entries.")
    if not all(isinstance(value, str) for value in headers.values()):
        fields.note("headers", "Must be an object of names and strings.")
    return headers
