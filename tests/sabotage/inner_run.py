"""Run a test in a copy of the code, and tell how it failed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.sabotage.table import ROOT

_CODE: Final = ("director", "jobgroups", "backends", "templates", "tests", "manage.py", "pyproject.toml")
#: Seconds for an inner run, whose one or few tests have less each. The outer test has 120.
_RUN_SECONDS: Final = 100

#: Pytest's exit codes.
PASSED: Final = 0
FAILED: Final = 1

#: How Python says that code makes no sense: such a breakage shows nothing of the law it breaks.
_NONSENSE: Final = re.compile(
    r"^[ |]*(?:E\s+)?(?:Name|Import|ModuleNotFound|Attribute|Type|Syntax|Indentation|UnboundLocal)Error: .*",
    re.MULTILINE,
)
_SUMMARY: Final = re.compile(r"^FAILED .*", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an inner run ended."""

    code: int
    output: str

    @property
    def failures(self) -> list[str]:
        """The summary's lines of tests that failed by themselves, not in their setup or teardown."""
        return _SUMMARY.findall(self.output)

    @property
    def nonsense(self) -> list[str]:
        """What went wrong because the code makes no sense, and not because it does the wrong thing."""
        return _NONSENSE.findall(self.output)


def copy_code(to: Path) -> Path:
    """Copy what tests need below ``to``, with times, so that what is compiled stays valid."""
    root = to / "copy"
    root.mkdir()
    for name in _CODE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name)
        elif source.exists():
            shutil.copy2(source, root / name)
    return root


def run_tests(root: Path, *node_ids: str, within: int = 60) -> Outcome:
    """Run tests in a copy, by a process of their own with a data folder of its own.

    Args:
        root: of the copy.
        node_ids: the tests.
        within: seconds that each of them has.

    Raises:
        subprocess.TimeoutExpired: they did not end in time.
    """
    scratch = root.parent / "scratch"
    scratch.mkdir()
    options = ["-x", "-q", "-p", "no:cacheprovider", f"--timeout={within}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *node_ids],
        cwd=root,
        env=_environment(scratch),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_RUN_SECONDS,
        check=False,
    )
    return Outcome(done.returncode, done.stdout)


def _environment(scratch: Path) -> dict[str, str]:
    # Neither the outer pytest's options nor its xdist worker are the inner one's.
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "DJANGO_")) and name != "PYTHONPATH"
    }
    return {**kept, "DIRECTOR_DATA_DIR": str(scratch / "data"), "TMPDIR": str(scratch)}
