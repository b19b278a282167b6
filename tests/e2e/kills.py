"""The steps at which ``serve`` is killed, from ``kills.toml``."""

import tomllib
from pathlib import Path
from typing import Final

import pytest

from tests.harness.director import Step

#: Table → name → step.
STEPS: Final[dict[str, dict[str, Step]]] = {
    table: {name: Step(*step) for name, step in steps.items()}
    for table, steps in tomllib.loads(
        Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    ).items()
}


def each_step(table: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("step", STEPS[table].values(), ids=STEPS[table])


in_life = pytest.mark.parametrize(
    ("step", "in_pool"),
    [
        *((one, False) for one in STEPS["life"].values()),
        *((one, True) for one in STEPS["pool"].values()),
    ],
    ids=[*STEPS["life"], *(f"{one}, in the pool" for one in STEPS["pool"])],
)
