"""Contact sheets: which job is where on which page, in pixels. Pure."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from backends.errors import FieldInvalid
from jobgroups.domain.text import input_labels, value_text

CELL: Final = 320  #: A side of the square of a job: the width of its thumbnail.
STEP: Final = CELL + 8  #: From one cell to the next.
FONT: Final = 24  #: Height of the letters of labels.
LINE: Final = 30  #: From one line of a label to the next.
MARGIN: Final = 24
LEFT: Final = 200  #: Width of the labels of rows.
MAX_SIDE: Final = 16_383  #: Of a WebP.
MAX_CELLS: Final = 200  #: On one page.
MAX_PIXELS: Final = 24_000_000  #: Of one page: its drawing and encoding take 9.5 bytes for each.


class Axis(NamedTuple):
    input: str
    label: str
    values: Sequence[Any]
    stride: int  #: Between the positions of jobs with neighbouring values.

    def text(self, index: int) -> str:
        return f"{self.label} {value_text(self.values[index])}"


class Text(NamedTuple):
    """A text in a box, whose lines are wrapped."""

    text: str
    x: int
    y: int
    width: int
    lines: int = 1


class _Row(NamedTuple):
    positions: Sequence[int]
    label: str = ""
    heading: str = ""
    columns: Sequence[str] = ()


@dataclass(slots=True)
class Page:
    """The corner of the cell of each job by its position, and the labels. The cells begin at
    ``left``.
    """

    left: int
    width: int
    height: int = 2 * MARGIN + 3 * LINE
    cells: dict[int, tuple[int, int]] = field(default_factory=dict)
    texts: list[Text] = field(default_factory=list)
    _last: _Row | None = None

    def add(self, row: _Row) -> bool:
        """Add a row; return whether there is space for it. The first one always has space."""
        texts, y = [], self.height - MARGIN
        if self._last is None or self._last.heading != row.heading:
            if row.heading:
                y += LINE // 2 if self._last else 0
                texts.append(Text(row.heading, MARGIN, y, self.width - 2 * MARGIN))
                y += LINE * 3 // 2
            if row.columns:
                texts += [
                    Text(column, self.left + at * STEP, y, CELL, 2)
                    for at, column in enumerate(row.columns)
                ]
                y += LINE * 9 // 4
        height = y + STEP + MARGIN
        is_full = len(self.cells) + len(row.positions) > MAX_CELLS or height > MAX_SIDE
        is_full = is_full or self.width * height > MAX_PIXELS
        if self._last is not None and (is_full or self._last.columns is not row.columns):
            return False
        self.height, self._last = height, row
        self.texts += [*texts, Text(row.label, MARGIN, y, LEFT - MARGIN, CELL // LINE)]
        self.cells.update(
            (position, (self.left + at * STEP, y)) for at, position in enumerate(row.positions)
        )
        return True


def strides(axes: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the distance of the positions of neighbours on each axis of a product, whose first
    axis changes slowest.
    """
    return [math.prod(len(axis["values"]) for axis in axes[at:]) for at in range(1, len(axes) + 1)]


def axes_of(sweep: Mapping[str, Any] | None, named: Sequence[str] = ()) -> list[Axis]:
    """Return the axes of a product for columns, rows and blocks: those named, then the others,
    longer than 1 first.

    Nothing for what is shown by position: no product, or only one axis that varies. Raises
    ``FieldInvalid``.
    """
    given = sweep["axes"] if sweep is not None and sweep["mode"] == "product" else []
    labels = input_labels(axis["input"] for axis in given)
    axes = [
        Axis(axis["input"], labels[axis["input"]], axis["values"], stride)
        for axis, stride in zip(given, strides(given), strict=True)
    ]
    known = {name: axis for axis in axes for name in (axis.label, axis.input)}
    if unknown := [name for name in named if name not in known]:
        listed = f"its axes are {', '.join(axis.input for axis in axes)}" if axes else "it has none"
        raise FieldInvalid("axes", f"{unknown[0]} is no axis of this group; {listed}.")
    first = {known[name].input: known[name] for name in named}
    others = sorted(
        (axis for axis in axes if axis.input not in first), key=lambda axis: len(axis.values) == 1
    )
    ordered = [*first.values(), *others]
    return ordered if len(ordered) > 1 and (len(first) > 1 or len(ordered[1].values) > 1) else []


def pages(total: int, axes: Sequence[Axis]) -> list[Page]:
    """Return the pages of ``total`` jobs; without axes they are in the order of their positions."""
    left = MARGIN + (LEFT if axes else 0)
    pages: list[Page] = []
    for row in _grid(axes, (MAX_SIDE - left - MARGIN) // STEP) if axes else _list(total):
        if not pages or not pages[-1].add(row):
            pages.append(Page(left, left + max(len(row.positions), 3) * STEP + MARGIN))
            pages[-1].add(row)
    return pages


def _list(total: int) -> Iterator[_Row]:
    columns = math.ceil(math.sqrt(min(total, MAX_CELLS)))
    for first in range(0, total, columns):
        yield _Row(range(first, min(first + columns, total)))


def _grid(axes: Sequence[Axis], most: int) -> Iterator[_Row]:
    """Yield the rows of all blocks; if a row has more than ``most`` cells, those of its parts one
    after another.
    """
    across, down, *others = axes
    width = len(across.values)
    part = math.ceil(width / math.ceil(width / most))
    for first in range(0, width, part):
        columns = range(first, min(first + part, width))
        labels = [across.text(column) for column in columns]
        for block in itertools.product(*(range(len(axis.values)) for axis in others)):
            at = list(zip(others, block, strict=True))
            start = sum(axis.stride * index for axis, index in at)
            heading = " · ".join(axis.text(index) for axis, index in at)
            for row in range(len(down.values)):
                positions = [
                    start + down.stride * row + across.stride * column for column in columns
                ]
                yield _Row(positions, down.text(row), heading, labels)
