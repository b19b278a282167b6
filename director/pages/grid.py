"""The table of a sweep's jobs: two axes are columns and rows, and one value is chosen of each other
axis. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from director.pages.text import shown_value
from jobgroups.domain.sheet import strides
from jobgroups.domain.text import input_labels

_MAX_CELLS: Final = 400  #: On one page.
_MANY_COLUMNS: Final = 30  #: More are rows if the other axis is shorter.
_SEED: Final = "seed"


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of a product; two jobs that are neighbours on it are ``stride`` positions apart."""

    name: str  #: Its parameter in the URL.
    input: str
    label: str
    values: Sequence[Any]
    stride: int

    @property
    def value_texts(self) -> list[tuple[int, str, str]]:
        """Index, short text and text of each value."""
        return [
            (index, shown_value(value), shown_value(value, 500))
            for index, value in enumerate(self.values)
        ]

    def index_of(self, query: Mapping[str, str], position: int | None) -> int:
        """Return the index of the value that the query or a job's position chooses, else 0."""
        if position is not None:
            return position // self.stride % len(self.values)
        return min(number(query, self.name), len(self.values) - 1)


@dataclass(frozen=True, slots=True)
class Grid:
    """One page of the table."""

    columns: Axis
    rows: Axis
    selectors: list[tuple[Axis, int]]  #: Other axes, each with the index of its chosen value.
    page: int  #: From 1.
    pages: int
    #: Rows: short text and text of the value, positions of the jobs.
    lines: list[tuple[str, str, list[int]]]
    query: str  #: Of the selectors.

    @property
    def page_numbers(self) -> range:
        return range(1, self.pages + 1)

    @property
    def positions(self) -> list[int]:
        return [position for _, _, line in self.lines for position in line]


def number(query: Mapping[str, str], name: str) -> int:
    """Return a number of a query, 0 if it is not one."""
    given = str(query.get(name, ""))
    return int(given) if given.isascii() and given.isdigit() and len(given) < 6 else 0


def grid_of(sweep: Any, query: Mapping[str, str], position: int | None = None) -> Grid | None:
    """Return the table that a query chooses; None if the sweep is no product of two axes with
    several values.

    ``position`` is of a job that must be shown. Axes other than seeds are columns and rows first.
    """
    if not sweep or sweep["mode"] != "product":
        return None
    labels = input_labels((axis["input"] for axis in sweep["axes"]), "_name")
    axes = [
        Axis(f"axis{number}", axis["input"], labels[axis["input"]], axis["values"], stride)
        for number, (axis, stride) in enumerate(
            zip(sweep["axes"], strides(sweep["axes"]), strict=True), 1
        )
    ]
    varied = sorted(
        (axis for axis in axes if len(axis.values) > 1), key=lambda axis: axis.input == _SEED
    )
    if len(varied) < 2:
        return None
    columns, rows, *others = varied
    if len(columns.values) > max(_MANY_COLUMNS, len(rows.values)):
        columns, rows = rows, columns
    selectors = [(axis, axis.index_of(query, position)) for axis in others]
    base = sum(axis.stride * index for axis, index in selectors)
    size = max(_MAX_CELLS // len(columns.values), 1)
    pages = -(-len(rows.values) // size)
    page = number(query, "page") if position is None else rows.index_of(query, position) // size + 1
    page = min(max(page, 1), pages)
    lines = []
    for index, short, whole in rows.value_texts[(page - 1) * size : page * size]:
        first = base + rows.stride * index
        lines.append(
            (short, whole, [first + columns.stride * at for at in range(len(columns.values))])
        )
    chosen = "".join(f"{axis.name}={index}&" for axis, index in selectors)
    return Grid(columns, rows, selectors, page, pages, lines, chosen)
