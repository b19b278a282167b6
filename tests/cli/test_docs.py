import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from django.core.management import get_commands, load_command_class

from director.cli import app
from director.cli.app import _CLIENT, _LOCAL
from director.cli.exit_status import Status
from tests.cli.conftest import LOAD, Desk
from tests.harness.processes import ROOT, migrated
from tests.harness.simulator_thread import SimulatorThread
from tests.unit.test_docs import PAGES as _DOCUMENTS

_PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
_LINES = [
    line
    for block in re.findall(r"```bash\n(.*?)```", _PAGE, re.DOTALL)
    for line in block.splitlines()
    if line
]
#: These run until a signal; tests of their own start them.
_ENDLESS = ("director demo", "director serve", "director simulate")
_EXAMPLES = [line for line in _LINES if not line.startswith(_ENDLESS)]
_GROUP, _JOB = "jg_0c1d9a77e3f2", "j_91ce44d07b3a"
#: A line of a page with a command, perhaps behind settings, by one of its names.
_COMMAND = re.compile(
    r"(?:[A-Z_]+=\S+ )*(?:docker compose exec web )?"
    r"(\S*\bdirector|(?:\S*/)?python manage\.py) (.+)"
)


def _write_files(folder: Path) -> None:
    """Write the files that the examples name, except images."""
    (folder / "prompt.txt").write_text("a red fox\n", encoding="utf-8")
    (folder / "lines.txt").write_text("a red fox\na cat\n", encoding="utf-8")
    (folder / "shots.csv").write_text("6.text,seed,meta:shot\na cat,7,1\n", encoding="utf-8")
    (folder / "load.json").write_text(json.dumps(LOAD), encoding="utf-8")
    (folder / "frames").mkdir()


def _run_in_shell(desk: Desk, line: str) -> None:
    script = f'director() {{ "{sys.executable}" -m director "$@"; }}; {line}'
    ended = subprocess.run(
        ["/bin/sh", "-c", script],
        cwd=desk.folder,
        env=desk.environment(DIRECTOR_DATA_DIR=str(migrated()), DIRECTOR_DISCOVER="0"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    # A watched group has a failed job here.
    may_fail = line.startswith(("director watch", "director doctor"))
    assert ended.returncode in {0, int(may_fail)}, f"{line}\n{ended.stdout}\n{ended.stderr}"
    assert "Traceback" not in ended.stderr, f"{line}\n{ended.stderr}"


def _prepared(desk: Desk, line: str, failed_group: str) -> str:
    """Replace the ids of the page by those of a group with a failed job."""
    if _GROUP not in line:
        return line
    if "move" in line.split():
        # The job is queued on a backend that is paused until the line has run.
        desk.run("backends", "pause", "gpu-1")
        group_id = desk.json("submit", "workflow.json", "-b", "gpu-1")["job_group_id"]
    else:
        changes = line.split()[1] in {"retry", "cancel", "rename", "archive", "delete"}
        group_id = desk.group("gpu-1", "gpu-2", fails=[1]) if changes else failed_group
    job = desk.json("show", group_id)["child_jobs"][-1]["job_id"]
    return line.replace(_GROUP, group_id).replace(_JOB, job)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the examples are for a POSIX shell")
@pytest.mark.timeout(600)
def test_every_example_runs(desk: Desk, failed_group: str) -> None:
    assert len(_EXAMPLES) > 40
    desk.run("submit", "workflow.json", "-b", "gpu-1", "--save", "made")
    [image] = (desk.folder / "made").iterdir()
    shutil.copy(image, desk.folder / "image.png")
    _write_files(desk.folder)
    shutil.copy(image, desk.folder / "frames")
    with SimulatorThread(seconds=0.2) as attic:
        for line in _EXAMPLES:
            words = line.split()
            if words[1] in ("tokens", "people", "login"):
                continue  # of a Director with accounts: tests/e2e/test_accounts.py
            if words[1] in ("next", "pause", "resume", "limit"):
                continue  # of a group that has not ended: test_groups.py
            address = attic.url.removeprefix("http://")
            ours = _prepared(desk, line.replace("192.168.100.6:8188", address), failed_group)
            if words[0] == "director" and words[1] in _CLIENT and "watch" not in words:
                desk.run(*shlex.split(ours)[1:])
            else:
                _run_in_shell(desk, ours)
            if "move" in words:
                desk.run("backends", "resume", "gpu-1")
            if "retry" in words or "move" in words:
                desk.run("watch", desk.json("list", "-n", "1")[0]["job_group_id"])


def test_page_lists_every_exit_status() -> None:
    listed = {int(number) for number in re.findall(r"^\| (\d+) \|", _PAGE, re.MULTILINE)}
    assert listed == {int(status) for status in Status}


def test_page_has_every_command_and_lists_its_section() -> None:
    for name in [*_CLIENT, *_LOCAL]:
        assert f"director {name}" in _PAGE, name
    contents, *sections = re.split(r"^## ", _PAGE, flags=re.MULTILINE)
    for section in sections:
        heading = section.partition("\n")[0].lower()
        assert f"](#{re.sub('[^a-z -]', '', heading).replace(' ', '-')})" in contents, heading


def _options(name: str, command: click.Command) -> Iterator[tuple[str, set[str]]]:
    """Yield each option of a command and of those below it, by all its names."""
    for option in command.params:
        if isinstance(option, click.Option):
            yield name, {*option.opts, *option.secondary_opts}
    for below, known in getattr(command, "commands", {}).items():
        yield from _options(f"{name} {below}", known)


def test_page_has_every_option() -> None:
    named = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", _PAGE))
    commands = {name: app.app.get_command(click.Context(app.app), name) for name in _CLIENT}
    options = [known for name, one in commands.items() if one for known in _options(name, one)]
    assert len(options) > 150
    assert [option for option in options if not option[1] & named] == []


def _commands(page: Path) -> Iterator[tuple[bool, list[str]]]:
    """Yield the words of each command in the blocks of a page, and whether it is one of the host."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if match := _COMMAND.fullmatch(line.rpartition(" | ")[2].strip()):
                program, words = match.groups()
                name, *options = shlex.split(words.removeprefix("manage "), comments=True)
                is_django = program.endswith("manage.py") and name in ("check", "tokens")
                yield is_django or name not in _CLIENT, [name, *options]


@pytest.mark.parametrize("page", _DOCUMENTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_example_is_accepted_by_the_parser_of_its_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, page: Path
) -> None:
    parsed: list[str] = []
    monkeypatch.setattr(
        click.Command, "invoke", lambda command, _context: parsed.append(command.name)
    )
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    _write_files(tmp_path)
    found = list(_commands(page))
    assert len(found) > 100 or page.name != "cli.md"
    for is_of_host, (name, *options) in found:
        if not is_of_host:
            assert app.run([name, *options]) == 0, (name, options)
            assert name in parsed, (name, options)
        elif name != "--version":
            command = load_command_class(get_commands()[name], name)
            command.create_parser("director", name).parse_args(options)
