"""Pages and tables that repeat what the code says are compared with the code."""

import ast
import importlib.util
import operator
import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.e2e import test_killed_at_every_step as kills
from tests.harness.director import Step
from tests.harness.processes import ROOT

STEPS = {
    f"{table}: {name}": step
    for table in ("LIFE", "UNSURE", "CANCEL", "TIMEOUT", "RETRY", "RECOVERY")
    for name, step in getattr(kills, table).items()
}
#: The reference is kept as it was given, with links to pages that are not here.
PAGES = sorted(page for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")] if page.name != "api-reference.md")
_READERS = {"_flag", "_number", "_one_of", "_words", "_text", "str", "_urls"}


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _variables_read() -> set[str]:
    """Names of the environment variables that settings.py reads, from its calls."""
    tree = ast.parse((ROOT / "director" / "settings.py").read_text(encoding="utf-8"))
    found = set()
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        function = call.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name in _READERS and call.args and isinstance(call.args[0], ast.Constant):
            found.add(str(call.args[0].value))
    return {name for name in found if name.startswith("DIRECTOR_")}


def _without_code(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def _anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ +(.+)$", _without_code(page), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize("name", ["generate_states", "generate_failures"])
def test_a_page_that_is_generated_is_the_generated_one(name: str) -> None:
    module = _script(name)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "stale: run `make docs`"


def test_every_environment_variable_is_described_once() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    described = re.findall(r"^\| `(DIRECTOR_[A-Z_]+)` \|", text, re.MULTILINE)
    assert len(_variables_read()) > 10
    assert sorted(described) == sorted(_variables_read())


def test_every_make_target_that_the_readme_names_is_there() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"\bmake ([a-z-]+)", readme))
    assert {"demo", "serve", "test"} <= named
    assert named <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"(?<!`)\]\(([^)\s]+)\)", _without_code(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        if anchor and target.suffix == ".md":
            assert anchor in _anchors(target), f"{link}: no such heading"


def test_waits_page_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "waits.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z0-9]+/test_\w+\.py)::(\w+)`", text)
    assert len(named) > 50
    for path, name in named:
        source = (ROOT / "tests" / path).read_text(encoding="utf-8")
        assert f"def {name}(" in source, f"{path}::{name}"


def test_contributing_names_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:jobgroups|backends|director|tests|docs)/[\w./-]*)`", text)
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_references_to_the_protocol_page_name_its_headings() -> None:
    page = (ROOT / "docs" / "comfyui-protocol.md").read_text(encoding="utf-8")
    headings = set(re.findall(r"^#+ (.+)$", page, re.MULTILINE))
    traps = {heading.split(":")[0].lower() for heading in headings}
    found = 0
    for folder in ("jobgroups", "backends", "director", "tests"):
        for file in (ROOT / folder).rglob("*.py"):
            text = re.sub(r"\s*\n\s*(#:?\s*)?", " ", file.read_text(encoding="utf-8"))
            for trap, heading in re.findall(r'comfyui-protocol\.md, (?:(trap \d+)[a-e]?|"([^"]+)")', text):
                found += 1
                assert trap in traps or heading in headings, f"{file}: {trap or heading}"
    assert found > 20


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
def test_step_of_a_kill_names_a_function_in_its_file(step: Step) -> None:
    module, _, name = step.at.partition(":")
    assert callable(operator.attrgetter(name)(importlib.import_module(module)))
    assert all((ROOT / path).is_file() for path in step.paths)


def test_what_runs_on_postgresql_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    listed = re.search(r"^POSTGRES_TESTS = ((?:.*\\\n)*.*)", makefile, re.MULTILINE)
    assert listed is not None
    paths = listed[1].replace("\\", "").split()
    assert len(paths) > 5
    assert [path for path in paths if not (ROOT / path).exists()] == []
