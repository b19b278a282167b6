"""Each law of the code is broken on purpose in a copy of it, and the test that guards it must fail."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.harness.servers import is_there, postgres
from tests.sabotage.breakage import Breakage, Edit
from tests.sabotage.table import BREAKAGES, PAGE, ROOT, page

_CODE: Final = ("director", "jobgroups", "backends", "templates", "tests", "docs")
_FILES: Final = ("manage.py", "pyproject.toml")
#: Errors of code that makes no sense: such a breakage proves nothing about its law.
_NONSENSE: Final = re.compile(
    r"^[ |]*(?:E\s+)?(?:Name|Import|ModuleNotFound|Attribute|Type|Syntax|Indentation|UnboundLocal)Error: .*",
    re.MULTILINE,
)
#: Pytest's exit codes.
_PASSED, _FAILED = 0, 1

each_breakage = pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda one: one.broken)


def copy_code(to: Path) -> Path:
    """Copy the code and its tests, with times, so that compiled files stay valid."""
    root = to / "copy"
    for name in _CODE:
        shutil.copytree(ROOT / name, root / name)
    for name in _FILES:
        shutil.copy2(ROOT / name, root / name)
    return root


def run_tests(root: Path, *node_ids: str, within: int = 60, **variables: str) -> tuple[int, str]:
    """Run tests in a copy, each at most ``within`` seconds; return exit code and output."""
    scratch = root.parent / "scratch"
    scratch.mkdir()
    # Options and xdist variables of the outer pytest must not reach the inner one.
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "DJANGO_")) and name != "PYTHONPATH"
    }
    options = ["-x", "-q", "-p", "no:cacheprovider", f"--timeout={within}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *node_ids],
        cwd=root,
        env={
            **kept,
            "DIRECTOR_DATA_DIR": str(scratch / "data"),
            "TMPDIR": str(scratch),
            **variables,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=220,  # below that of the outer test; some tests kill a process at four steps
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(240)
@each_breakage
def test_broken_law_is_noticed(breakage: Breakage, tmp_path: Path) -> None:
    root = copy_code(tmp_path)
    breakage.apply(root)
    with ExitStack() as stack:
        variables = {}
        if breakage.on_postgresql:
            if not is_there("initdb"):
                pytest.skip("PostgreSQL's programs are not installed")
            url = stack.enter_context(postgres()).create("director")
            variables["DIRECTOR_DATABASE_URL"] = url
        code, output = run_tests(
            root, f"tests/{breakage.notices}", within=breakage.within, **variables
        )
    assert code == _FAILED, output
    # Failed by itself: not in its setup or teardown.
    assert len(re.findall(r"^FAILED ", output, re.MULTILINE)) == 1, output
    assert _NONSENSE.findall(output) == [], output


@pytest.mark.slow
def test_unbroken_copy_passes(tmp_path: Path) -> None:
    of_each_kind = {
        one.notices.split("/")[0]: f"tests/{one.notices}"
        for one in BREAKAGES
        if not one.on_postgresql
    }
    code, output = run_tests(copy_code(tmp_path), *of_each_kind.values())
    assert code == _PASSED, output


@each_breakage
def test_breakage_fits_the_present_code(breakage: Breakage) -> None:
    for edit in breakage.edits:
        edit.apply(ROOT)
    path, _, name = breakage.notices.partition("::")
    assert f"def {name}(" in (ROOT / "tests" / path).read_text(encoding="utf-8")


def test_outdated_breakage_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("a = 1\nb = a\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"code.py: occurs 0 times"):
        Edit("code.py", "c = 1", "c = 2").apply(tmp_path)


@pytest.mark.parametrize(
    ("line", "senseless"),
    [
        ("E   NameError: name 'x' is not defined", True),
        ("    | TypeError: 'int' object is not iterable", True),
        ("E   AssertionError: assert 2 == 1", False),
        ("    except TypeError:", False),
    ],
)
def test_crash_differs_from_a_failed_assertion(line: str, senseless: bool) -> None:
    assert bool(_NONSENSE.search(line)) is senseless


def test_page_of_breakages_is_the_generated_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tests.sabotage`"
