"""A measured figure with its limits, and the table of all figures."""

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Attributes:
        floor: what the machine gives in the same run to something that does nothing; None: no
            floor.
        gate: what must be reached; None: it is only watched. ``goal``: what would be good.
        more_is_better: a rate; else it is a time.
        of_floor: gate and goal are multiples of the floor.
    """

    name: str
    value: float
    unit: str = "ms"
    _: KW_ONLY
    floor: float | None = None
    gate: float | None = None
    goal: float | None = None
    more_is_better: bool = False
    of_floor: bool = False

    @property
    def ratio(self) -> float | None:
        """The value as a multiple of the floor."""
        return self.value / self.floor if self.floor else None

    def reaches(self, limit: float | None) -> bool:
        """Return whether it is as good as a limit; None: there is no limit."""
        if limit is None:
            return True
        value = self.ratio if self.of_floor else self.value
        assert value is not None, f"{self.name} has no floor"
        return value >= limit if self.more_is_better else value <= limit

    def cells(self) -> list[str]:
        unit = f" {self.unit}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        sign = "≥ " if self.more_is_better else "≤ "
        of_what = " ×" if self.of_floor else unit
        limits = [
            "" if one is None else f"{sign}{_short(one)}{of_what}" for one in (self.gate, self.goal)
        ]
        floor = "" if self.floor is None else _short(self.floor) + unit
        return [self.name, _short(self.value) + unit, floor, ratio, *limits, self.verdict()]

    def verdict(self) -> str:
        """Return whether it reaches its gate and its goal."""
        if self.gate is None:
            return ""
        if not self.reaches(self.gate):
            return "MISS"
        return "pass, goal" if self.goal is not None and self.reaches(self.goal) else "pass"


def p50(seconds: Sequence[float]) -> float:
    return median(seconds) * 1000


def p99(seconds: Sequence[float]) -> float:
    """Return what one in a hundred exceeds, in milliseconds."""
    return percentile(seconds, 99)


def percentile(seconds: Sequence[float], percent: float) -> float:
    """Return what all but so many in a hundred stay below, in milliseconds."""
    return sorted(seconds)[min(len(seconds) - 1, int(len(seconds) * percent / 100))] * 1000


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"


HEAD = ["figure", "value", "floor", "× floor", "gate", "goal", ""]


def table(figures: Sequence[Figure]) -> str:
    rows = [HEAD, *(one.cells() for one in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def machine() -> str:
    """Return when and on what it was measured, and how busy that was."""
    now = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{now} UTC, {os.cpu_count()} cores{load}, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}"
    )
