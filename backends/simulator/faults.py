"""Faults on order: what may go wrong, when, how often, and to whom.

Each kind is described once, in `KINDS`; a `Fault` is one order of a kind. Two sorts:

- behaviours wait for their moment (a request, a step, the end of a prompt) and change it;
- actions happen at once (`at=now`) or at a point of a prompt (`at=accepted`, `started`,
  `step`, `finishing`, `ended`).

Common options of every order: `count` (how many times; 0 for ever), `after` (let that many chances
pass first), and the filters `prompt_id`, `client_id`, `mark` (text within the JSON of extra_data).
"""

import itertools
import json
from collections.abc import Callable, Mapping
from configparser import ConfigParser
from dataclasses import dataclass
from typing import Any, NamedTuple

OUT_OF_MEMORY = (  # as recorded
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
_BOOLEANS = ConfigParser.BOOLEAN_STATES


class FaultError(ValueError):
    """An invalid order; the message names what is allowed."""


class Kind(NamedTuple):
    help: str
    options: dict[str, Any]


def _kind(help_text: str, **options: Any) -> Kind:
    return Kind(help_text, _COMMON | options)


def _route(help_text: str, **options: Any) -> Kind:
    help_text = f"{help_text} (route: path prefix, method)"
    return _kind(help_text, **{"route": "", "method": "", **options})


def _action(help_text: str, **options: Any) -> Kind:
    return _kind(help_text, **{"at": "now", "step": 1, **options})


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"type": kind, "message": message, "node": "", "step": 0}


KINDS: dict[str, Kind] = {
    # a prompt's run
    "node_error": _kind(
        "a node raises; `node` is its id or class, default the first one that samples",
        **_error("RuntimeError", "CUDA out of memory"),
    ),
    "out_of_memory": _kind(
        "as node_error, with the text of an exhausted GPU memory; `pixels`: only for larger images",
        **_error("torch.OutOfMemoryError", OUT_OF_MEMORY),
        pixels=0,
    ),
    "cuda_fatal": _kind(
        "as node_error, with the text of a broken GPU; every prompt fails so until a restart",
        **_error("torch.AcceleratorError", _ILLEGAL_ACCESS),
    ),
    "slow": _kind("sampling takes that many seconds longer", seconds=5.0),
    "stuck": _kind(
        "sampling stops at `step` until the fault is cleared (or interrupted, if allowed)", step=1, interruptible=True
    ),
    "uninterruptible": _kind("samplers do not check the interrupt flag (comfyui-protocol.md, trap 5)"),
    "slow_start": _kind(
        "a popped prompt waits before it clears the interrupt flag (comfyui-protocol.md, trap 4)", seconds=1.0
    ),
    "interrupt_lost": _kind("an interrupt is answered 200 and forgotten (comfyui-protocol.md, trap 4)"),
    # the end of a prompt
    "late_history": _kind(
        "execution_success goes out, the history entry is written seconds later (comfyui-protocol.md, trap 3)",
        seconds=1.0,
    ),
    "late_history_entry": _kind(
        "all frames of the end go out, the history entry is written seconds later", seconds=1.0
    ),
    "no_history": _kind("the prompt's history entry is never written"),
    # POST /prompt
    "lose_answer": _kind("POST /prompt is queued; its connection breaks without an answer"),
    "delay_answer": _kind("POST /prompt is queued; its answer comes seconds later", seconds=5.0),
    "other_prompt_id": _kind("POST /prompt is queued under an id of the server's own and answered 200 without it"),
    "prompt_500": _kind("POST /prompt is queued and answered 500 (comfyui-protocol.md, trap 1a)"),
    "late_post": _kind("POST /prompt breaks at once and is queued seconds later all the same", seconds=2.0),
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
    # the server
    "worker_dead": _action("the worker dies; HTTP still answers (comfyui-protocol.md, trap 1)"),
    "crash": _action("the process dies and stays down until it's restarted"),
    "restart": _action("the process dies, is down for seconds and has forgotten all", down=1.0),
    "refuse_connections": _action("new connections are refused for seconds", seconds=2.0),
    "delete_pending": _action("another client deletes all pending prompts (or prompt_id)"),
    "interrupt": _action("another client interrupts the running prompt"),
    "foreign_prompt": _action(
        "another client queues prompts of that many seconds", prompts=1, seconds=1.0, front=False
    ),
}


@dataclass(slots=True)
class Fault:
    id: int
    name: str
    options: dict[str, Any]
    left: int | None  # None: for ever
    skip: int
    hits: int = 0

    def __getitem__(self, option: str) -> Any:
        return self.options[option]

    def matches(self, facts: Mapping[str, Any]) -> bool:
        wanted = self.options
        if any(wanted[key] not in ("", facts.get(key)) for key in ("prompt_id", "client_id")):
            return False
        extra_data = facts.get("extra_data")
        if wanted["mark"] and wanted["mark"] not in json.dumps(extra_data, default=str):
            return False
        if "node" in facts and wanted["node"] not in facts["node"]:
            return False
        if "step" in facts and wanted["step"] != facts["step"]:
            return False
        if wanted.get("method") and facts.get("method") != wanted["method"].upper():
            return False
        pixels = wanted.get("pixels", 0)
        is_its_route = str(facts.get("path", "")).startswith(wanted.get("route", ""))
        return is_its_route and not (pixels > 0 and facts.get("pixels", 0) <= pixels)

    def report(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("id", "name", "left", "hits", "options")}


class Faults:
    """The orders of one server. They outlive its restarts."""

    def __init__(self, on_hit: Callable[[Fault, Mapping[str, Any]], None]) -> None:
        self._orders: list[Fault] = []
        self._ids = itertools.count(1)
        self._on_hit = on_hit

    def inject(self, name: str, **options: Any) -> Fault:
        """Add one. Raises FaultError for an unknown name or option, or a value of another type."""
        if name not in KINDS:
            raise FaultError(f"There is no fault {name!r}. Known: {', '.join(sorted(KINDS))}.")
        allowed = KINDS[name].options
        if unknown := options.keys() - allowed.keys():
            raise FaultError(f"Fault {name!r} has no option {min(unknown)!r}. Known: {', '.join(allowed)}.")
        values = {k: _convert(name, k, options.get(k, d), d) for k, d in allowed.items()}
        if values.get("at", "now") not in MOMENTS:
            raise FaultError(f"Fault {name!r}: at is one of {', '.join(MOMENTS)}.")
        left, skip = values["count"] or None, values["after"]
        fault = Fault(next(self._ids), name, values, left=left, skip=skip)
        self._orders.append(fault)
        return fault

    def take(self, name: str, **facts: Any) -> Fault | None:
        """The order of that name that this chance fulfils, counted as a hit; or None."""
        orders = (fault for fault in self._orders if fault.name == name)
        return next((fault for fault in orders if self._use(fault, facts)), None)

    def take_route(self, **facts: Any) -> Fault | None:
        orders = (fault for fault in self._orders if "route" in fault.options)
        return next((fault for fault in orders if self._use(fault, facts)), None)

    def take_actions(self, moment: str, step: int = 0, **facts: Any) -> list[Fault]:
        orders = [fault for fault in self._orders if fault.options.get("at") == moment]
        if moment == "step":
            orders = [fault for fault in orders if fault["step"] == step]
        return [fault for fault in orders if self._use(fault, facts, filtered=moment != "now")]

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
        return fault in self._orders

    def clear(self, name: str | None = None) -> None:
        self._orders = [fault for fault in self._orders if name and fault.name != name]

    def report(self) -> list[dict[str, Any]]:
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


def _convert(name: str, key: str, value: Any, default: Any) -> Any:
    try:
        if isinstance(default, bool):
            return _BOOLEANS[value.lower()] if isinstance(value, str) else bool(value)
        if isinstance(default, str):
            return str(value)
        number = type(default)(value)
        if number < 0:
            raise ValueError(value)
        return number
    except (KeyError, TypeError, ValueError):
        kind = type(default).__name__
        raise FaultError(f"Fault {name!r}: {key}={value!r} is no {kind} from 0 up.") from None
