"""Faults on order: what may go wrong, when, how often, and to whom.

Each kind is described once, in `faults.toml`; a `Fault` is one order of a kind. Two sorts:

- behaviours wait for their moment (a request, a step, the end of a prompt) and change it;
- actions happen at once (`at=now`) or at a point of a prompt (`at=accepted`, `started`,
  `step`, `finishing`, `ended`).

Common options of every order: `count` (how many times; 0 for ever), `after` (let that many chances
pass first), and the filters `prompt_id`, `client_id`, `mark` (text within the JSON of extra_data).
A delay of `seconds` ends earlier if its order is cleared.
"""

import asyncio
import contextlib
import json
import tomllib
from collections.abc import Callable, Mapping
from configparser import ConfigParser
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NODE_FAILURES = ("node_error", "out_of_memory", "cuda_fatal")  # what makes a node raise
MOMENTS = ("now", "accepted", "started", "step", "finishing", "ended")
_BOOLEANS = ConfigParser.BOOLEAN_STATES


class FaultError(ValueError):
    """An invalid order; the message names what is allowed."""


_DECLARED = tomllib.loads(Path(__file__).with_name("faults.toml").read_text(encoding="utf-8"))
_SHARED = _DECLARED["shared"]
#: What may be ordered: each option with its default.
KINDS: dict[str, dict[str, Any]] = {
    name: _SHARED["common"] | _SHARED.get(kind.get("shared"), {}) | kind.get("options", {})
    for name, kind in _DECLARED["kinds"].items()
}
OUT_OF_MEMORY: str = KINDS["out_of_memory"]["message"]  # as recorded


@dataclass(slots=True, eq=False)
class Fault:
    name: str
    options: dict[str, Any]
    left: int | None  # None: for ever
    skip: int
    cleared: asyncio.Event = field(default_factory=asyncio.Event)

    async def last(self) -> None:
        """Wait for its seconds, or until it is cleared."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self["seconds"]):
                await self.cleared.wait()

    def __getitem__(self, option: str) -> Any:
        return self.options[option]

    def matches(self, facts: Mapping[str, Any]) -> bool:
        wanted = self.options
        if any(wanted[key] not in ("", facts.get(key)) for key in ("prompt_id", "client_id")):
            return False
        texts = {"mark": facts.get("extra_data"), "workflow": facts.get("prompt")}
        if any(
            wanted.get(key) and wanted[key] not in json.dumps(texts[key], default=str)
            for key in texts
        ):
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


class Faults:
    """The orders of one server. They outlive its restarts."""

    def __init__(self, on_hit: Callable[[Fault, Mapping[str, Any]], None]) -> None:
        self._orders: list[Fault] = []
        self._on_hit = on_hit

    def inject(self, name: str, **options: Any) -> Fault:
        """Add one. Raises FaultError for an unknown name or option, or a value of another type."""
        if name not in KINDS:
            raise FaultError(f"There is no fault {name!r}. Known: {', '.join(sorted(KINDS))}.")
        allowed = KINDS[name]
        if unknown := options.keys() - allowed.keys():
            raise FaultError(
                f"Fault {name!r} has no option {min(unknown)!r}. Known: {', '.join(allowed)}."
            )
        values = {k: _convert(name, k, options.get(k, d), d) for k, d in allowed.items()}
        if values.get("at", "now") not in MOMENTS:
            raise FaultError(f"Fault {name!r}: at is one of {', '.join(MOMENTS)}.")
        left, skip = values["count"] or None, values["after"]
        fault = Fault(name, values, left=left, skip=skip)
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
        self._on_hit(fault, facts)
        return True

    def clear(self, name: str | None = None) -> None:
        for fault in self._orders:
            if fault.name == (name or fault.name):
                fault.cleared.set()
        self._orders = [fault for fault in self._orders if not fault.cleared.is_set()]


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
