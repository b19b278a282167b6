"""Pages and tables that repeat what the code says are compared with the code."""

import ast
import datetime as dt
import importlib.util
import json
import operator
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from pytest_django import Settings

from director import client
from director.web import health
from director.web.health import Check, HealthReport, StorageReport
from director.web.processes import ProcessState
from jobgroups.domain.audit import Action
from jobgroups.metrics import TABLES
from jobgroups.models import FilesProcess, Runner
from tests.e2e import kills
from tests.harness.director import Step
from tests.harness.processes import ROOT

STEPS = {
    f"{table}: {name}": step for table, steps in kills.STEPS.items() for name, step in steps.items()
}
#: The reference is kept as it was given, with links to pages that are not here.
PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")]
    if page.name != "api-reference.md"
)
_READERS = {"_flag", "_number", "_one_of", "_words", "_text", "str", "_urls", "_address"}


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


def _anchors(page: Path) -> list[str]:
    """Anchors of a page's headings, as GitHub makes them of headings that differ."""
    found = []
    for heading in re.findall(r"^#+ +(.+)$", _without_code(page), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.append(re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-"))
    return found


def test_every_environment_variable_is_described_once() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    described = re.findall(r"^\| `(DIRECTOR_[A-Z_]+)` \|", text, re.MULTILINE)
    assert len(_variables_read()) > 10
    assert sorted(described) == sorted(_variables_read())


_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50, "EiB": 2**60}


def _bound(text: str) -> float:
    number, _, unit = text.strip().partition(" ")
    return float(number) * _UNITS.get(unit, 1)


def _value(node: ast.expr) -> float:
    """Return a constant or a product of the settings."""
    return float(eval(compile(ast.Expression(node), "settings.py", "eval")))  # noqa: S307 our own file


def test_defaults_and_bounds_of_settings_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(DIRECTOR_[A-Z_]+)` \| (.*)$", text, re.MULTILINE))
    tree = ast.parse((ROOT / "director" / "settings.py").read_text(encoding="utf-8"))
    numbers = 0
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        kind, at = getattr(call.func, "id", ""), call.args[0] if call.args else None
        if kind not in ("_number", "_flag") or not isinstance(at, ast.Constant):
            continue
        row, given = rows[str(at.value)], [*call.args[1:], *(one.value for one in call.keywords)]
        default = _value(given[kind == "_number"])
        if not row.startswith("none |"):
            assert row.startswith(f"`{default:.15g}` |"), at.value
        if kind == "_number":
            numbers += 1
            bounds = re.search(r"\((\d[^()–]*)–([^()]*)\)", row)
            assert bounds, at.value
            assert list(map(_bound, bounds.groups())) == list(map(_value, given[2:4])), at.value
    assert numbers > 20


def test_monitoring_lists_every_metric() -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8").split("\n## Metrics\n")[1]
    cells = re.findall(r"^\| (`.+?`) \|", text, re.MULTILINE)
    listed = [
        name.removesuffix("_total") for cell in cells for name in re.findall(r"`(\w+)`", cell)
    ]
    assert sorted(listed) == sorted(name for table in TABLES.values() for name in table)


def test_page_of_accounts_lists_every_action_of_the_record() -> None:
    text = (ROOT / "docs" / "accounts.md").read_text(encoding="utf-8")
    table = text.split("\n## The record\n")[1].split("\n\nStars")[0]
    cells = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    listed, kind = [], ""
    for name in re.findall(r"`([a-z_.]+)`", " ".join(cells)):
        kind = kind if name.startswith(".") else name.partition(".")[0]
        listed.append(kind + name if name.startswith(".") else name)
    assert sorted(listed) == sorted(Action)


def test_terms_of_the_glossary_are_in_order() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^\| \*\*(.+?)\*\* \|", text, re.MULTILINE)
    assert len(terms) > 50
    assert terms == sorted(terms)


def test_page_for_agents_lists_every_tool() -> None:
    tree = ast.parse((ROOT / "director" / "mcp.py").read_text(encoding="utf-8"))
    [tools] = [node for node in tree.body if getattr(node, "name", "") == "Tools"]
    methods = [
        str(node.name)
        for node in ast.walk(tools)
        if isinstance(node, ast.AsyncFunctionDef) and not node.name.startswith("_")
    ]
    text = (ROOT / "docs" / "mcp.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == sorted(methods)


def test_package_which_no_index_has_is_installed_from_its_folder() -> None:
    texts = [*PAGES, *(ROOT / "director").rglob("*.py")]
    by_name = re.compile(r"pip install [^`\n]*\bcomfyui-director\b")
    assert [text for text in texts if by_name.search(text.read_text(encoding="utf-8"))] == []


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_headings_of_a_page_differ(page: Path) -> None:
    if page.name != "CHANGELOG.md":  # it has the same ones for each release
        anchors = _anchors(page)
        assert sorted(set(anchors)) == sorted(anchors)


#: Texts in italics that other programs have, keys and titles.
_OF_OTHERS = {
    *(
        "Admin Settings",
        "Base URL",
        "ComfyUI Authorization Token",
        "Connect via URL",
        "Copy job ID",
    ),
    *(
        "Comfy API v2",
        "Ctrl+S",
        "Custom ComfyUI",
        "Dashboards → New → Import",
        "Generative AI for Krita",
    ),
    *("Preview Any", "Templates"),
}


def test_texts_of_controls_that_the_pages_name_are_there() -> None:
    files = [
        *ROOT.glob("templates/**/*.html"),
        *ROOT.glob("director/static/director/*.js"),
        *ROOT.glob("director/pages/*.py"),
    ]
    shown = "\n".join(file.read_text(encoding="utf-8") for file in files)
    shown = re.sub(r"\s+", " ", shown + re.sub(r"<[^>]+>", "", shown)).lower()
    for page in PAGES:
        if page.name != "CHANGELOG.md":
            named = re.findall(r"(?<![*\w])\*([A-Z][^*]{1,40})\*(?![*\w])", _without_code(page))
            texts = {re.sub(r"\s+", " ", text).removesuffix(" …") for text in named} - _OF_OTHERS
            assert [text for text in texts if text.lower() not in shown] == [], page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_examples_in_python_and_json_can_be_read(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for kind, block in re.findall(r"^```(python|json)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if kind == "json":
            json.loads(block)
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "director.client":
                assert [one.name for one in node.names if not hasattr(client, one.name)] == []


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
    folders = ("tests", "jobgroups", "backends")
    names = {file.name for folder in folders for file in (ROOT / folder).rglob("*")}
    assert set(re.findall(r"`([a-z_]+\.(?:py|toml|json))`", text)) <= names


def test_references_to_the_protocol_page_name_its_headings() -> None:
    page = (ROOT / "docs" / "comfyui-protocol.md").read_text(encoding="utf-8")
    headings = set(re.findall(r"^#+ (.+)$", page, re.MULTILINE))
    traps = {heading.split(":")[0].lower() for heading in headings}
    found = 0
    for folder in ("jobgroups", "backends", "director", "tests"):
        for file in (ROOT / folder).rglob("*.py"):
            text = re.sub(r"\s*\n\s*(#:?\s*)?", " ", file.read_text(encoding="utf-8"))
            for trap, heading in re.findall(
                r'comfyui-protocol\.md, (?:(trap \d+)[a-e]?|"([^"]+)")', text
            ):
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


_PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
_ROWS = re.findall(
    r"^\| `(database|channel_layer|runner|backends|captures|storage|processes)` \| (.+?) \| (ok|degraded|down) \| (.*?) ?\|$",
    _PAGE,
    re.MULTILINE,
)
_NOW = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)


def _runner(age_s: float, **fields: object) -> Runner:
    return Runner(name="rack-1", heartbeat_at=_NOW - dt.timedelta(seconds=age_s), **fields)


def _facts(*runners: Runner) -> HealthReport:
    return HealthReport(list(runners), _NOW, {})


def _late(seconds: float, *, runner_age: float = 1.0) -> HealthReport:
    return HealthReport([_runner(runner_age)], _NOW, {}, (seconds, "gpu-1"))


def _files(age_s: float, *runners: Runner) -> HealthReport:
    files = [FilesProcess(host="rack-1", pid=7, heartbeat_at=_NOW - dt.timedelta(seconds=age_s))]
    return HealthReport(list(runners), _NOW, {}, files=files)


def _backends(runner_age: float, *statuses: str) -> HealthReport:
    backends = {f"gpu-{number}": status for number, status in enumerate(statuses, 1)}
    return HealthReport([_runner(runner_age)], _NOW, backends)


def _given() -> dict[str, list[Check]]:
    failed = {"last_error_at": _NOW, "restarts": 2}
    return {
        "database": [
            health.database_check(None),
            health.database_check(_facts()),
            health.database_check(replace(_facts(), is_read_only=True)),
        ],
        "channel_layer": [
            health.channel_layer_check(""),
            health.channel_layer_check("", has_others=True),
            health.channel_layer_check("redis://127.0.0.1:1/0"),
            Check(health.Level.OK, "A message was received through Redis."),
        ],
        "runner": [
            health.runner_check(None),
            health.runner_check(_facts()),
            health.runner_check(_facts(_runner(60.0))),
            health.runner_check(_facts(_runner(0.8), _runner(1.0))),
            health.runner_check(_facts(_runner(0.8, **failed))),
        ],
        "storage": [
            health.storage_check(None),
            Check(
                health.Level.DEGRADED,
                "The storage of files does not answer; see the log. Outputs are copied when it "
                "does, uploads and stored"
                " files are refused. Jobs go on; those with assets wait.",
            ),
            health.storage_check(StorageReport(0, ["rack-1", "rack-2"])),
            health.storage_check(StorageReport(2**30)),
            health.storage_check(StorageReport(400 * 2**30)),
            Check(
                health.Level.OK,
                "9 GiB are free. Ended groups without a starred job are deleted 30 d after their "
                "end.",
            ),
        ],
        "processes": [
            health.processes_check([]),
            health.processes_check(
                [ProcessState(name, 7, is_running=True) for name in ("web", "runner", "files")]
            ),
            health.processes_check([ProcessState("runner", 7, True, 2, time.time(), "signal 9")]),
            health.processes_check([ProcessState("files", 7, False, 5, time.time(), "status 1")]),
        ],
        "captures": [
            health.captures_check(None),
            health.captures_check(_facts()),
            health.captures_check(_late(3.0)),
            health.captures_check(_late(680.0)),
            health.captures_check(_late(3.0, runner_age=60.0)),
            health.captures_check(_files(1.0)),
            health.captures_check(_files(60.0)),
            health.captures_check(_files(60.0, _runner(1.0))),
            health.captures_check(HealthReport([_runner(1.0)], _NOW, {}, failed_captures=12)),
            Check(health.Level.OK, "Outputs are not copied (DIRECTOR_CAPTURE=0)."),
        ],
        "backends": [
            health.backends_check(None),
            health.backends_check(_backends(1.0)),
            health.backends_check(_backends(60.0, "offline")),
            health.backends_check(_backends(1.0, "online")),
            *(
                health.backends_check(_backends(1.0, "online", "busy", status))
                for status in ("online", "offline", "quarantined", "paused", "draining")
            ),
        ],
    }


def _like(words: str) -> re.Pattern[str]:
    """Return what a sentence of the page stands for: dots are any text, numbers any number."""
    pattern = re.escape(words).replace("…", ".+")
    return re.compile(re.sub(r"\d+(\\\.\d+)?", r"\\d+(?:\\.\\d+)?", pattern))


def test_every_answer_is_in_the_page_with_what_to_do() -> None:
    for name, answers in _given().items():
        for answer in answers:
            rows = [
                todo
                for check, words, status, todo in _ROWS
                if check == name
                and status == answer.status
                and _like(words).fullmatch(answer.detail)
            ]
            assert len(rows) == 1, f"{name}: {answer}"
            assert rows[0] or answer.status == "ok", f"{name}: {answer} says not what to do"


def test_the_page_has_no_answer_that_is_never_given() -> None:
    given = _given()
    for name, words, status, _ in _ROWS:
        found = [one for one in given[name] if _like(words).fullmatch(one.detail)]
        assert [one.status for one in found] == [status], words


@pytest.mark.parametrize("facts", [_facts(), _facts(_runner(60.0))])
def test_where_work_is_taken_without_a_runner_that_is_no_fault_of_all(
    facts: HealthReport, settings: Settings
) -> None:
    settings.DIRECTOR_ACCEPT_WITHOUT_RUNNER = True
    assert health.runner_check(facts).status == "degraded"
    assert "With `DIRECTOR_ACCEPT_WITHOUT_RUNNER` a missing runner is `degraded`" in _PAGE
