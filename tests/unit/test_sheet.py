"""The grid of a sweep and the text of its contact sheet."""

import math
from typing import Any

import pytest

from backends.errors import FieldInvalid
from director.pages.grid import grid_of
from jobgroups.domain.sheet import CELL, MAX_CELLS, MAX_PIXELS, MAX_SIDE, Page, axes_of, pages
from jobgroups.domain.text import value_text
from jobgroups.outputs.sheet_page import wrap_text
from jobgroups.workflow import build_template
from jobgroups.workflow.batch import sweep_of
from tests.harness.graphs import text_to_image


def _sweep(*lengths: int, mode: str = "product") -> dict[str, Any]:
    names = ("3.cfg", "4.ckpt_name", "seed", "7.cfg", "5.steps")
    return {
        "mode": mode,
        "axes": [
            {"input": name, "values": [10 * n + at for at in range(length)]}
            for n, (name, length) in enumerate(zip(names, lengths, strict=False))
        ],
    }


def _rows(page: Page) -> list[list[int]]:
    """Return the positions of jobs as they are on a page, row by row."""
    rows: dict[int, list[tuple[int, int]]] = {}
    for position, (x, y) in page.cells.items():
        rows.setdefault(y, []).append((x, position))
    return [[position for _, position in sorted(rows[y])] for y in sorted(rows)]


@pytest.mark.parametrize(
    ("named", "rows"),
    [
        ([], [[0, 6], [2, 8], [4, 10], [1, 7], [3, 9], [5, 11]]),
        (["4.ckpt_name", "3.cfg"], [[0, 2, 4], [6, 8, 10], [1, 3, 5], [7, 9, 11]]),
        (["seed"], [[0, 1], [6, 7], [2, 3], [8, 9], [4, 5], [10, 11]]),
        (["ckpt_name", "seed"], [[0, 2, 4], [1, 3, 5], [6, 8, 10], [7, 9, 11]]),
    ],
)
def test_axes_are_columns_rows_and_blocks(named: list[str], rows: list[list[int]]) -> None:
    [page] = pages(12, axes_of(_sweep(2, 3, 2), named))
    assert _rows(page) == rows


def test_positions_of_a_grid_are_those_of_the_sweep() -> None:
    given = [
        {"input": name, "values": [*range(2, 4 + at)]}
        for at, name in enumerate(("steps", "3.cfg", "seed"))
    ]
    batch = sweep_of(build_template(text_to_image(), {}), {"axes": given}, None, 5)
    for position, job in enumerate(batch.jobs):
        inputs = {
            axis.input: axis.values[position // axis.stride % len(axis.values)]
            for axis in axes_of(batch.sweep)
        }
        assert inputs == {**(job.variation or {}), "seed": job.seed}


def test_labels_of_a_grid() -> None:
    [page] = pages(12, axes_of(_sweep(2, 3, 2)))
    labels = [one.text for one in page.texts]
    block = ["cfg 0", "cfg 1", "ckpt_name 10", "ckpt_name 11", "ckpt_name 12"]
    assert labels == ["seed 20", *block, "seed 21", *block]
    # An input that two nodes have is labelled with its node.
    assert {axis.label for axis in axes_of(_sweep(2, 1, 1, 2))} == {
        "3.cfg",
        "7.cfg",
        "ckpt_name",
        "seed",
    }


@pytest.mark.parametrize("sweep", [None, _sweep(7), _sweep(7, 1), _sweep(7, 7, mode="zip")])
def test_jobs_without_two_varied_axes_are_in_order(sweep: Any) -> None:
    [page] = pages(7, axes_of(sweep))
    assert _rows(page) == [[0, 1, 2], [3, 4, 5], [6]]


def test_unknown_axis_is_refused_with_the_known_ones() -> None:
    with pytest.raises(FieldInvalid, match=r"sampler is no axis .* 3\.cfg, 4\.ckpt_name"):
        axes_of(_sweep(2, 3), ["3.cfg", "sampler"])
    with pytest.raises(FieldInvalid, match="it has none"):
        axes_of(None, ["3.cfg"])


@pytest.mark.parametrize(
    "lengths", [(), (1, 10_000), (10_000, 1), (100, 100), (2, 50, 100), (60, 3)]
)
def test_pages_are_within_the_limits_and_have_each_job_once(lengths: tuple[int, ...]) -> None:
    total = math.prod(lengths) if lengths else 10_000
    found = pages(total, axes_of(_sweep(*lengths), ["3.cfg", "4.ckpt_name"]) if lengths else [])
    assert sorted(position for page in found for position in page.cells) == list(range(total))
    for page in found:
        assert len(page.cells) <= MAX_CELLS
        assert max(page.width, page.height) <= MAX_SIDE
        assert page.width * page.height <= MAX_PIXELS
        assert all(
            0 <= x <= page.width - CELL and 0 <= y <= page.height - CELL
            for x, y in page.cells.values()
        )
        assert all(0 <= one.x <= one.x + one.width <= page.width for one in page.texts)
        assert (page.texts[0].text != "") == bool(lengths)


def test_200_jobs_are_one_page() -> None:
    assert [len(page.cells) for page in pages(201, [])] == [195, 6]
    assert len(pages(200, [])) == len(pages(200, axes_of(_sweep(10, 20)))) == 1


@pytest.mark.parametrize(
    ("text", "lines", "found"),
    [
        ("", 2, []),
        ("a cat on a red mat", 2, ["a cat on a", "red mat"]),
        ("a cat on a red mat in the sun", 2, ["a cat on a", "red mat…"]),
        ("juggernautXL_v9", 3, ["juggernaut", "XL_v9"]),
    ],
)
def test_text_is_wrapped(text: str, lines: int, found: list[str]) -> None:
    assert wrap_text(text, 10, lines, lambda _: 1.0) == found


def test_values_are_one_short_line() -> None:
    values = (7.5, "a\nb", True, None, "x" * 300)
    assert list(map(value_text, values)) == ["7.5", "a b", "true", "null", f"{'x' * 60}…{'x' * 59}"]


def product(**lengths: int) -> dict[str, Any]:
    axes = [{"input": name, "values": list(range(length))} for name, length in lengths.items()]
    return {"mode": "product", "axes": axes}


def test_two_axes_are_columns_and_rows() -> None:
    grid = grid_of(product(cfg=2, steps=3), {})
    assert grid is not None
    assert (grid.columns.label, grid.rows.label, grid.selectors) == ("cfg", "steps", [])
    # The first axis changes slowest.
    assert [line for _, _, line in grid.lines] == [[0, 3], [1, 4], [2, 5]]


def test_other_axes_and_seeds_are_chosen() -> None:
    sweep = product(seed=2, cfg=3, one=1, steps=2, width=4)
    grid = grid_of(sweep, {"axis5": "1", "axis1": "9"})
    assert grid is not None
    assert (grid.columns.label, grid.rows.label) == ("cfg", "steps")
    assert [(axis.label, index) for axis, index in grid.selectors] == [("width", 1), ("seed", 1)]
    assert [line for _, _, line in grid.lines] == [[25, 33, 41], [29, 37, 45]]
    assert grid.query == "axis5=1&axis1=1&"
    # A job chooses the values at which it is.
    assert grid_of(sweep, {}, position=41) == grid


@pytest.mark.parametrize(
    ("lengths", "query", "shape"),
    [
        ({"cfg": 5, "seed": 2}, {}, [5, 2, 1]),
        ({"cfg": 20, "steps": 30}, {}, [20, 20, 2]),
        ({"cfg": 20, "steps": 30}, {"page": "99"}, [20, 10, 2]),
        ({"cfg": 500, "steps": 3}, {}, [3, 133, 4]),
        ({"cfg": 100, "steps": 100}, {"page": "-1"}, [100, 4, 25]),
    ],
)
def test_a_page_has_at_most_four_hundred_cells(
    lengths: dict[str, int], query: dict[str, str], shape: list[int]
) -> None:
    grid = grid_of(product(**lengths), query)
    assert grid is not None
    assert [len(grid.columns.values), len(grid.lines), grid.pages] == shape


@pytest.mark.parametrize(
    "sweep",
    [None, product(cfg=3), product(cfg=3, steps=1), {**product(cfg=2, steps=2), "mode": "zip"}],
)
def test_other_groups_have_no_grid(sweep: Any) -> None:
    assert grid_of(sweep, {}) is None
