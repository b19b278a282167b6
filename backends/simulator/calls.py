"""How ComfyUI calls the function of each node class, as far as the listing does not contain it.

`calls.json.gz` gives per class the function's name, and after it the parameters that the function
takes although no input of the class is called so; "**" matches any name. It was read with
`inspect.signature` from the classes of a real ComfyUI 0.3.64.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import NamedTuple

_ANY = "**"


class Call(NamedTuple):
    """A function as its errors name it ("SaveImage.save_images"), and its further parameters."""

    function: str
    also: frozenset[str]

    def refused(self, names: Iterable[str]) -> str | None:
        """The first of some undeclared names that the function doesn't take, or None."""
        if _ANY in self.also:
            return None
        return next((name for name in names if name not in self.also), None)


@cache
def _calls() -> dict[str, list[str]]:
    packed = resources.files("backends.simulator").joinpath("calls.json.gz").read_bytes()
    calls: dict[str, list[str]] = json.loads(gzip.decompress(packed))
    return calls


def call_of(class_type: str) -> Call:
    """The call of a class. Raises KeyError."""
    function, *also = _calls()[class_type]
    return Call(function, frozenset(also))
