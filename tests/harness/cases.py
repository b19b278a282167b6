"""Cases of parametrized tests that are kept beside them as data."""

import functools
import tomllib
from pathlib import Path
from typing import Any


def cases(file: str, test: str) -> Any:
    """Return the cases of a test in ``file``: ``cases.toml`` in its folder has a list for each such
    test.

    "<none>" stands for None, which TOML lacks, and ``{times = 3, of = "x"}`` for "xxx".
    """
    return _expanded(_lists(Path(file).with_name("cases.toml"))[test])


@functools.cache
def _lists(path: Path) -> dict[str, list[Any]]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _expanded(value: Any) -> Any:
    if isinstance(value, dict):
        expanded = {name: _expanded(one) for name, one in value.items()}
        return expanded["times"] * expanded["of"] if set(expanded) == {"times", "of"} else expanded
    if isinstance(value, list):
        return [_expanded(one) for one in value]
    return None if value == "<none>" else value
