"""Each law of the code is broken on purpose in a copy of it, and the test that guards it must fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sabotage.breakage import Breakage, Edit, StaleBreakage
from tests.sabotage.inner_run import FAILED, PASSED, Outcome, copy_code, run_tests
from tests.sabotage.table import BREAKAGES, PAGE, ROOT, page

each_breakage = pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda one: one.name)


@pytest.mark.slow
@each_breakage
def test_a_broken_law_is_noticed(breakage: Breakage, tmp_path: Path) -> None:
    root = copy_code(tmp_path)
    breakage.apply(root)
    outcome = run_tests(root, breakage.notices, within=breakage.within)
    assert outcome.code != PASSED, f"Nobody noticed: {breakage.broken}"
    assert outcome.code == FAILED, outcome.output
    assert len(outcome.failures) == 1, outcome.output
    assert outcome.nonsense == [], outcome.output


@pytest.mark.slow
def test_an_unbroken_copy_passes(tmp_path: Path) -> None:
    of_each_kind = {one.notices.split("/")[1]: one.notices for one in BREAKAGES}
    outcome = run_tests(copy_code(tmp_path), *of_each_kind.values())
    assert outcome.code == PASSED, outcome.output


@each_breakage
def test_a_breakage_fits_the_code_as_it_is(breakage: Breakage) -> None:
    texts: dict[str, str] = {}
    for edit in breakage.edits:
        text = texts.get(edit.path) or (ROOT / edit.path).read_text(encoding="utf-8")
        texts[edit.path] = edit.applied(text)


@each_breakage
def test_the_test_that_notices_is_there(breakage: Breakage) -> None:
    path, _, name = breakage.notices.partition("::")
    assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")


def test_a_breakage_that_the_code_has_left_behind_says_which_it_is(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("a = 1\nb = a\n", encoding="utf-8")
    stale = Breakage(name="gone", broken="", hurts="", edits=(Edit("code.py", "c = 1", "c = 2"),), notices="")
    with pytest.raises(StaleBreakage, match=r"Refresh the breakage 'gone'. code.py: occurs 0 times"):
        stale.apply(tmp_path)


@pytest.mark.parametrize(
    ("line", "senseless"),
    [
        ("E   NameError: name 'x' is not defined", True),
        ("AttributeError: 'NoneType' object has no attribute 'state'", True),
        ("    | TypeError: 'int' object is not iterable", True),
        ("E   AssertionError: assert 2 == 1", False),
        ("    except TypeError:", False),
    ],
)
def test_a_crash_of_senseless_code_is_told_from_a_failure(line: str, senseless: bool) -> None:
    outcome = Outcome(FAILED, f"{line}\nFAILED tests/a.py::test_a - {line}\n")
    assert bool(outcome.nonsense) is senseless
    assert len(outcome.failures) == 1


def test_no_two_breakages_have_one_name() -> None:
    names = [breakage.name for breakage in BREAKAGES]
    assert len(names) == len(set(names)) >= 16


def test_the_page_of_breakages_is_the_generated_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tests.sabotage`"
