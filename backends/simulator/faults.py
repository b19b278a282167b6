"""Faults on order: what may go wrong, when, how often, and to whom.

Each kind is described once, in `KINDS`; a `Fault` is one order of a kind. Two sorts:

- behaviours wait for their moment (a request, a step, the end of a prompt) and change it;
- actions happen at once (`at=now`) or at a point of a prompt (`at=accepted`, `started`,
  `step`, `finishing`, `ended`).

Common options of every order: `count` (how many times; 0 for ever), `after` (let that many chances
pass first), and the filters `prompt_id`, `client_id`, `mark` (text within the JSON of extra_data).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_OUT_OF_MEMORY = (  # as recorded
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 23.54 GiB of"
    " which 1.10 GiB is free."
)
_ILLEGAL_ACCESS = (
    "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be"
    " asynchronously reported at some other API call, so the stacktrace below might be incorrect."
)
NODE_FAILURES = ("node_error", "out_of_memory", "cuda_fatal")  # what makes a node raise
MOMENTS = ("now", "accepted", "started", "step", "finishing", "ended")
_COMMON: dict[str, Any] = {"count": 1, "after": 0, "prompt_id": "", "client_id": "", "mark": ""}
_ACTION: dict[str, Any] = {"at": "now", "step": 1}
_ROUTE: dict[str, Any] = {"route": "", "method": ""}


class FaultError(ValueError):
    """An invalid order; the message names what is allowed."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault: what it does, and its options with their defaults."""

    help: str
    options: Mapping[str, Any] = field(default_factory=dict)


def _route(help_text: str, **options: Any) -> Kind:
    return Kind(f"{help_text} (route: path prefix, method)", {**_ROUTE, **options})


def _action(help_text: str, **options: Any) -> Kind:
    return Kind(help_text, {**_ACTION, **options})


KINDS: dict[str, Kind] = {
    # a prompt's run
    "node_error": Kind(
        "a node raises; `node` is its id or class, default the first one that samples",
        {"type": "RuntimeError", "message": "CUDA out of memory", "node": "", "step": 0},
    ),
    "out_of_memory": Kind(
        "as node_error, with the text of an exhausted GPU memory; `pixels`: only for larger images",
        {"type": "torch.OutOfMemoryError", "message": _OUT_OF_MEMORY, "node": "", "step": 0, "pixels": 0},
    ),
    "cuda_fatal": Kind(
        "as node_error, with the text of a broken GPU; every prompt fails so until a restart",
        {"type": "torch.AcceleratorError", "message": _ILLEGAL_ACCESS, "node": "", "step": 0},
    ),
    "slow": Kind("sampling takes that many seconds longer", {"seconds": 5.0}),
    "stuck": Kind(
        "sampling stops at `step` until the fault is cleared (or interrupted, if allowed)",
        {"step": 1, "interruptible": True},
    ),
    "uninterruptible": Kind("samplers do not check the interrupt flag (comfyui-protocol.md, trap 5)"),
    "slow_start": Kind(
        "a popped prompt waits before it clears the interrupt flag (comfyui-protocol.md, trap 4)", {"seconds": 1.0}
    ),
    "interrupt_lost": Kind("an interrupt is answered 200 and forgotten (comfyui-protocol.md, trap 4)"),
    "interrupt_late": Kind("an interrupt's flag rises seconds later, on the prompt that runs then", {"seconds": 1.0}),
    # the end of a prompt
    "late_history": Kind(
        "execution_success goes out, the history entry is written seconds later (comfyui-protocol.md, trap 3)",
        {"seconds": 1.0},
    ),
    "late_history_entry": Kind(
        "all frames of the end go out, the history entry is written seconds later", {"seconds": 1.0}
    ),
    "no_history": Kind("the prompt's history entry is never written"),
    "empty_history": Kind("GET /history answers {} although there are entries"),
    "huge_history": Kind("GET /history answers that many megabytes more", {"megabytes": 64.0}),
    # POST /prompt
    "lose_answer": Kind("POST /prompt is queued; its connection breaks without an answer"),
    "delay_answer": Kind("POST /prompt is queued; its answer comes seconds later", {"seconds": 5.0}),
    "other_prompt_id": Kind("POST /prompt is queued under an id of the server's own and answered 200 without it"),
    "prompt_500": Kind("POST /prompt is queued and answered 500 (comfyui-protocol.md, trap 1a)"),
    "late_post": Kind("POST /prompt breaks at once and is queued seconds later all the same", {"seconds": 2.0}),
    # any route
    "slow_http": _route("the answer comes seconds later", seconds=2.0),
    "hang_http": _route("the request is taken and never answered"),
    "reset_http": _route("the connection breaks before the request is handled"),
    "status": _route("answers with that status and text", status=500, body="on order"),
    "html": _route("answers 200 with an HTML page, as a proxy's login page does"),
    "nonsense": _route("answers 200 application/json with text that is no JSON"),
    "wrong_json": _route("answers 200 with JSON of an unexpected shape"),
    "redirect": _route("answers 302 to another address", to="http://127.0.0.1:9/"),
    "endless": _route("answers 200 with a body that never ends", megabytes_per_second=16.0),
    "trickle": _route("answers 200 with a body of a few bytes a second", bytes_per_second=1.0),
    "cut": _route("breaks the connection in the middle of an answer's body"),
    # sockets
    "drop_sockets": _action("all sockets (or client_id's) break without a close frame"),
    "stall_sockets": _action("all sockets (or client_id's) stay open and go silent, pings too"),
    "deaf": _action("the server forgets all clientIds (or client_id's): open, but no frames"),
    "slow_frames": Kind("each frame is sent that much later (comfyui-protocol.md, trap 2)", {"seconds": 0.5}),
    # the server
    "worker_dead": _action("the worker dies; HTTP goes on as if all were well (comfyui-protocol.md, trap 1)"),
    "crash": _action("the process dies and stays down until it's restarted"),
    "restart": _action("the process dies, is down for seconds and has forgotten all", down=1.0),
    "refuse_connections": _action("new connections are refused for seconds", seconds=2.0),
    "clear_history": _action("another client clears the history"),
    "delete_pending": _action("another client deletes all pending prompts (or prompt_id)"),
    "interrupt": _action("another client interrupts the running prompt"),
    "foreign_prompt": _action(
        "another client queues prompts of that many seconds", prompts=1, seconds=1.0, front=False
    ),
}


@dataclass(slots=True)
class Fault:
    """One order."""

    id: int
    name: str
    options: dict[str, Any]
    left: int | None  # None: for ever
    skip: int
    hits: int = 0

    def __getitem__(self, option: str) -> Any:
        return self.options[option]

    def matches(self, facts: Mapping[str, Any]) -> bool:
        """Whether the filters let this chance through."""
        for key in ("prompt_id", "client_id"):
            if self.options[key] and facts.get(key) != self.options[key]:
                return False
        if self.options["mark"] and self.options["mark"] not in _text(facts.get("extra_data")):
            return False
        if "node" in facts and self.options["node"] not in facts["node"]:
            return False
        if "step" in facts and self.options["step"] != facts["step"]:
            return False
        if self.options.get("method") and facts.get("method") != self.options["method"].upper():
            return False
        return self._is_its_route(facts) and not self._fits_in_memory(facts)

    def _is_its_route(self, facts: Mapping[str, Any]) -> bool:
        route = self.options.get("route") or ""
        return not route or str(facts.get("path", "")).startswith(route)

    def _fits_in_memory(self, facts: Mapping[str, Any]) -> bool:
        pixels = self.options.get("pixels", 0)
        return bool(pixels > 0 and facts.get("pixels", 0) <= pixels)

    def report(self) -> dict[str, Any]:
        """As GET /simulator/faults shows it."""
        return {"id": self.id, "name": self.name, "left": self.left, "hits": self.hits} | {"options": self.options}


class Faults:
    """The orders of one server. They outlive its restarts."""

    def __init__(self, on_hit: Callable[[Fault, Mapping[str, Any]], None]) -> None:
        self._orders: list[Fault] = []
        self._ids = itertools.count(1)
        self._on_hit = on_hit

    def inject(self, name: str, **options: Any) -> Fault:
        """Add one. Raises FaultError for an unknown name or option, or a value of another type."""
        fault = self._make(name, options)
        self._orders.append(fault)
        return fault

    def _make(self, name: str, options: dict[str, Any]) -> Fault:
        if name not in KINDS:
            raise FaultError(f"There is no fault {name!r}. Known: {', '.join(sorted(KINDS))}.")
        allowed = {**_COMMON, **KINDS[name].options}
        if unknown := options.keys() - allowed.keys():
            raise FaultError(f"Fault {name!r} has no option {min(unknown)!r}. Known: {', '.join(allowed)}.")
        values = {k: _convert(name, k, options.get(k, d), d) for k, d in allowed.items()}
        if values.get("at", "now") not in MOMENTS:
            raise FaultError(f"Fault {name!r}: at is one of {', '.join(MOMENTS)}.")
        count = values["count"]
        return Fault(next(self._ids), name, values, left=count or None, skip=values["after"])

    def take(self, name: str, **facts: Any) -> Fault | None:
        """The order of that name that this chance fulfils, counted as a hit; or None."""
        for fault in self._orders:
            if fault.name == name and self._use(fault, facts):
                return fault
        return None

    def take_route(self, **facts: Any) -> Fault | None:
        """The first order about an HTTP route that fits `method` and `path`."""
        for fault in self._orders:
            if "route" in fault.options and self._use(fault, facts):
                return fault
        return None

    def take_actions(self, moment: str, step: int = 0, **facts: Any) -> list[Fault]:
        """Return the actions that are due at this point of a prompt."""
        due = []
        for fault in self._orders:
            if fault.options.get("at") != moment:
                continue
            if moment == "step" and fault.options["step"] != step:
                continue
            if self._use(fault, facts, filtered=moment != "now"):
                due.append(fault)
        return due

    def _use(self, fault: Fault, facts: Mapping[str, Any], *, filtered: bool = True) -> bool:
        """Count this chance; whether the fault takes it. At `now` the filters only name whom."""
        if fault.left == 0 or (filtered and not fault.matches(facts)):
            return False
        if fault.skip > 0:
            fault.skip -= 1
            return False
        if fault.left is not None:
            fault.left -= 1
        fault.hits += 1
        self._on_hit(fault, facts)
        return True

    def is_ordered(self, fault: Fault) -> bool:
        """Return whether that order is still active (a stuck node waits for its removal)."""
        return fault in self._orders

    def clear(self, name: str | None = None) -> None:
        """Withdraw all orders, or those of one name."""
        self._orders = [fault for fault in self._orders if name and fault.name != name]

    def report(self) -> list[dict[str, Any]]:
        """All orders, spent ones too."""
        return [fault.report() for fault in self._orders]


def parse_fault(text: str) -> tuple[str, dict[str, Any]]:
    """Read `NAME[:key=value,...]`, the command line's form (also with `:` between the pairs).

    Raises FaultError.
    """
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise FaultError(f"Fault {text!r}: write NAME:key=value,key=value.")
        options[key.strip()] = value.strip()
    return name.strip(), options


def fault_kinds() -> dict[str, Any]:
    """Every kind with its options, for `GET /simulator/faults`."""
    return {n: {"help": k.help, "options": {**_COMMON, **k.options}} for n, k in KINDS.items()}


def _convert(name: str, key: str, value: Any, default: Any) -> Any:
    """The value in the default's type; text (from a command line) is read."""
    try:
        if isinstance(default, bool):
            return _boolean(value)
        if isinstance(default, str):
            return str(value)
        number = type(default)(value)
        if number < 0:
            raise ValueError(value)
        return number
    except (TypeError, ValueError):
        kind = type(default).__name__
        raise FaultError(f"Fault {name!r}: {key}={value!r} is no {kind} from 0 up.") from None


def _boolean(value: Any) -> bool:
    if isinstance(value, str):
        if value.lower() in {"1", "true", "yes", "on"}:
            return True
        if value.lower() in {"0", "false", "no", "off"}:
            return False
        raise ValueError(value)
    return bool(value)


def _text(extra_data: Any) -> str:
    return json.dumps(extra_data, default=str)
