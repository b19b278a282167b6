"""Read model of the page of one backend: what it does, did, failed at, is held for, and which
models it has.
"""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from django.db.models import QuerySet

from backends.inventory import FRESH_SECONDS, node_classes
from director.pages.backends import backend_rows, device_texts
from jobgroups.domain.access import Principal
from jobgroups.models import TITLE, Attempt
from jobgroups.queries.backends import backend_get
from jobgroups.queries.failures import failure_report
from jobgroups.queries.usage import seconds_executed
from jobgroups.queries.visibility import visible

_ATTEMPTS: Final = 20  #: Newest attempts that are shown.
_WINDOW: Final = "7d"  #: Period of the failures.
_MODELS_SECONDS: Final = 6.0  #: Seconds in which the backend must answer with its models.
_MAX_MODELS: Final = 2_000  #: Models of one kind that are listed.
#: Kinds of models, each with the class that loads them and the input with their names.
_LOADERS: Final = {
    "Checkpoints": ("CheckpointLoaderSimple", "ckpt_name"),
    "Diffusion models (UNET)": ("UNETLoader", "unet_name"),
    "LoRAs": ("LoraLoader", "lora_name"),
    "VAEs": ("VAELoader", "vae_name"),
}


def backend_page(backend_id: str, principal: Principal) -> dict[str, Any]:
    """Return what the page of a backend shows a principal without its models. Raises
    ``BackendNotFound``.
    """
    backend = backend_get(backend_id)
    (row,) = backend_rows([backend], principal)
    return {
        "row": row,
        "devices": [
            device_texts(device) for device in backend.devices if isinstance(device, Mapping)
        ],
        "attempts": _attempts(backend_id, principal),
        "failures": _failures(backend_id, principal),
        "window": _WINDOW,
    }


def _attempts(backend_id: str, principal: Principal) -> QuerySet[Attempt]:
    """Return the newest attempts at a backend; ``lasted`` is how many seconds one ran."""
    wanted = (
        "state",
        "number",
        "failure_class",
        "error_message",
        "created_at",
        "started_at",
        "ended_at",
    )
    names = [*wanted, "child__position", *(f"child__group__{name}" for name in TITLE)]
    seen = Attempt.objects.filter(visible(principal, "child__group"), backend_id=backend_id)
    rows = seen.select_related("child__group").only(*names)
    return rows.annotate(lasted=seconds_executed()).order_by("-id")[:_ATTEMPTS]


def _failures(backend_id: str, principal: Principal) -> list[tuple[str, int]]:
    """Return the failures at a backend by class, the most first."""
    report = failure_report(principal, _WINDOW, backend_id)
    counts: Counter[str] = Counter()
    for row in [*report.results, *report.recovered]:
        counts[row.failure_class] += row.failures
    return counts.most_common()


def backend_models(backend_id: str) -> list[dict[str, Any]]:
    """Return the models of a backend by kind, as it describes them now. Raises ``BackendNotFound``.

    ``names`` is None if the backend did not answer in time, or lacks the class that loads them.
    """
    backend, moment = backend_get(backend_id), time.monotonic()
    wanted = {backend: [class_type for class_type, _ in _LOADERS.values()]}
    described_classes = node_classes(
        wanted, since=moment - FRESH_SECONDS, until=moment + _MODELS_SECONDS
    )[backend.id]
    listed = []
    for kind, (class_type, name) in _LOADERS.items():
        described = described_classes.get(class_type)
        of_input = described.inputs.get(name) if described else None
        choices = (
            None
            if of_input is None or of_input.choices is None
            else [str(choice) for choice in of_input.choices]
        )
        names = None if choices is None else choices[:_MAX_MODELS]
        listed.append(
            {"kind": kind, "names": names, "count": len(choices or ()), "is_cut": names != choices}
        )
    return listed
