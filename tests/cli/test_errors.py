"""Wrong input: a sentence with what to do, and the exit status of docs/cli.md."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from django.core.management import get_commands, load_command_class

from director.cli.app import _LOCAL, app
from director.cli.backends import backends
from tests.cli.conftest import Desk
from tests.served import Served, stop_in_order

_BAD_FILES = {
    "not.json": (b"{", "not.json is not JSON: "),
    "empty.json": (b"", "empty.json is empty."),
    "list.json": (b"[1]", "list.json: Must be an object"),
    "editor.json": (b'{"nodes": [], "links": []}', '"Save (API format)"'),
    "request.json": (b'{"prompt": {"3": {}}}', 'send what is inside "prompt"'),
    "node.json": (b'{"3": {"inputs": {}}}', "node.json.3.class_type: Must be"),
    "photo.jpg": (b"\xff\xd8\xff\xe0", "photo.jpg is a JPEG"),
    "noise.bin": (b"\xfe\xfd\xfc", "noise.bin is neither JSON nor a PNG"),
    "broken.png": (b"\x89PNG\r\n\x1a\nxx", "broken.png: The body is not a PNG"),
}


@pytest.mark.parametrize("name", _BAD_FILES)
def test_file_without_a_workflow_is_refused(desk: Desk, name: str) -> None:
    content, expected = _BAD_FILES[name]
    (desk.folder / name).write_bytes(content)
    said = desk.said("submit", name, "-b", "gpu-1", status=2)
    assert expected in said


def test_missing_file_is_refused_with_a_similar_name(desk: Desk) -> None:
    said = desk.said("submit", "worfklow.json", "-b", "gpu-1", status=2)
    assert said == "Error: There is no file worfklow.json.\nDid you mean workflow.json?\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--set", "stepz=30"],
            "--set stepz: it matches no input of the workflow.\nDid you mean steps",
        ),
        (
            ["--set", "3.stepz=30"],
            "--set 3.stepz: it matches no input of the workflow.\nDid you mean 3.steps",
        ),
        (
            ["--set", "Positive Promt.text=x"],
            "it matches no input of the workflow.\nDid you mean Positive Prompt.text",
        ),
        (["--set", "positve=x"], "it matches no input of the workflow.\nDid you mean steps?"),
        (
            ["--set", "positive=x"],
            "--set positive: the input is a link, which is never overwritten.",
        ),
        (["--set", "seed=5"], "--base-seed"),
        (["-b", "gpu-1", "--all"], "--backend or --all, not both"),
        (["--all", "--count", "0"], "--count"),
        (["--all", "--base-seed", "-1"], "--base-seed"),
        (["--all", "--timeout", "29"], "--timeout"),
        (["--all", "--max-attempts", "11"], "--max-attempts"),
        (["--all", "--seeds", "fibonaci"], "fibonacci"),
        (["--all", "--set", "cfg"], "--set 'cfg' has no value"),
        (["--all", "--set", "cfg=high"], "--set cfg: "),
        (["--all", "--set", "text=@nowhere.txt"], "nowhere.txt cannot be read"),
        (["--all", "--meta", "scene"], "--meta 'scene' has no value"),
        (["--all", "--save", "workflow.json"], "workflow.json"),
        (["--all", "--save", "out", "--name", "{date}.png"], "--name: "),
    ],
)
def test_wrong_option_sends_nothing(desk: Desk, words: list[str], expected: str) -> None:
    before = desk.json("list", "-n", "1")
    assert expected in desk.said("submit", "workflow.json", *words, status=2)
    assert desk.json("list", "-n", "1") == before


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that cannot be written")
@pytest.mark.parametrize("words", [["submit", "workflow.json", "--all"], ["watch", "jg_0"]])
def test_folder_that_cannot_be_written_is_refused_first(desk: Desk, words: list[str]) -> None:
    said = desk.said(*words, "--save", "/proc", status=2)
    assert said.startswith("Error: The folder /proc cannot be written: ")


def test_refused_field_is_named_by_its_option(desk: Desk) -> None:
    words = ["submit", "workflow.json", "--all", "--max-attempts", "2"]
    said = desk.said(*words, "--retry-on", "bad_luck", status=4)
    assert said.startswith("Error: --retry-on")
    assert "out_of_memory" in said


@pytest.mark.parametrize(
    "words",
    [
        ["watch", ""],
        ["show", "", "--json"],
        ["show", "jg_000000000000", ""],
        ["cancel", "jg_000000000000", ""],
        ["retry", "jg_000000000000", "--job", " "],
        ["submit", "", "--all"],
        ["submit", "workflow.json", "-b", ""],
        ["submit", "workflow.json", "--all", "--key", ""],
        ["submit", "workflow.json", "--all", "--save", ""],
        ["list", "--server", ""],
        ["list", "-b", " "],
        ["save", "jg_000000000000", "--to", ""],
        ["backends", "--server", ""],
    ],
)
def test_empty_argument_is_refused(desk: Desk, words: list[str]) -> None:
    assert "is the variable set?" in desk.said(*words, status=2)


def test_unknown_backend_is_refused_with_the_closest_match(desk: Desk) -> None:
    said = desk.said("submit", "workflow.json", "-b", "gpu-11", status=4)
    assert said.startswith("Error: No backend has the id or the tag 'gpu-11'.\nDid you mean gpu-1")


def test_help_shows_whole_sentences(desk: Desk) -> None:
    assert "..." not in desk.out("backends", "--help").partition("Commands:")[2]
    assert "FILLED" not in desk.out("list", "--help")


def test_director_that_does_not_answer_is_unreachable(desk: Desk) -> None:
    said = desk.said("list", "--server", "127.0.0.1:9", status=3)
    assert said.startswith("Error: No answer from http://127.0.0.1:9: ")
    assert "Errno" not in said
    assert "--server" in said


def test_server_that_is_no_director_is_unreachable(desk: Desk) -> None:
    said = desk.said("list", "--server", desk.sims.url, status=3)
    assert "does not answer as a Director does" in said


@pytest.mark.parametrize("address", ["foo:bar", "ftp://here", "http://", "http://x?y=1"])
def test_wrong_address_is_refused(desk: Desk, address: str) -> None:
    said = desk.said("list", "--server", address, status=2)
    assert said.startswith("Error: --server (or DIRECTOR_URL) is ")
    assert "http://localhost:9820" in said


def test_missing_and_wrong_tokens_are_refused(desk: Desk, tmp_path: Path) -> None:
    token = "a-token-of-the-studio"
    folder = tmp_path / "guarded"
    folder.mkdir()
    guarded = Served(folder, environment={"DIRECTOR_TOKEN": token})
    try:
        said = desk.said("list", status=4, DIRECTOR_URL=guarded.url)
        assert "needs a token" in said
        assert "Set DIRECTOR_TOKEN" in said
        said = desk.said("list", status=4, DIRECTOR_URL=guarded.url, DIRECTOR_TOKEN=f"{token}x")
        assert "refuses the token in DIRECTOR_TOKEN" in said
        desk.run("list", DIRECTOR_URL=guarded.url, DIRECTOR_TOKEN=token)
        assert token not in said
    finally:
        stop_in_order(guarded)


@pytest.mark.parametrize(
    "token", ["m\u00fcnchen-0123456789", "hush hush 0123456789", "hush\nhush-0123456789"]
)
def test_impossible_token_is_refused_and_not_printed(desk: Desk, token: str) -> None:
    said = desk.said("list", status=2, DIRECTOR_TOKEN=token)
    assert said.startswith("Error: DIRECTOR_TOKEN has characters that a token cannot have.")
    assert token.split(maxsplit=1)[0] not in said


@pytest.mark.parametrize("key", ["sh\u00f6t", "two\nlines", "k" * 300])
def test_impossible_key_is_refused(desk: Desk, key: str) -> None:
    said = desk.run("submit", "workflow.json", "-b", "gpu-1", "--key", key, status=2).stderr
    assert "--key" in said


def test_misspelt_command_is_refused_with_the_closest_match(desk: Desk) -> None:
    said = desk.said("sumbit", status=2)
    assert said.startswith("Error: There is no command 'sumbit'. Did you mean submit?")
    assert "Did you mean migrate" in desk.said("migrat", status=2)


def test_error_is_json_with_the_option_json(desk: Desk) -> None:
    said = json.loads(desk.said("show", "jg_000000000000", "--json", status=4))
    assert said["detail"] == "Job group jg_000000000000 not found"
    assert (said["code"], said["exit_status"]) == ("group_not_found", 4)


@pytest.mark.parametrize(
    "words", [["submit"], ["list", "-n", "0"], ["sumbit"], ["backends", "halt"]]
)
def test_wrong_command_line_is_json_with_the_option_json(desk: Desk, words: list[str]) -> None:
    said = json.loads(desk.said(*words, "--json", status=2))
    assert list(said) == ["detail", "code", "hint", "exit_status"]
    assert (said["code"], said["exit_status"]) == ("usage", 2)
    assert "director " in said["hint"]


def test_backend_in_place_of_a_command_is_refused_with_a_hint(desk: Desk) -> None:
    said = desk.said("backends", "24gb", status=2)
    assert said.startswith("Error: There is no command 'backends 24gb'.")
    assert "director backends list 24gb" in said
    assert "Did you mean pause" in desk.said("backends", "pasue", "gpu-1", status=2)


def test_every_command_has_examples_in_its_help() -> None:
    # click keeps the names of the help option on the command.
    settings = {"help_option_names": ["-h", "--help"]}
    help_of = {
        name: command.get_help(click.Context(command, info_name=name, **settings))
        for name, command in _client_commands().items()
    }
    for name in set(_LOCAL) - {"manage"}:
        app_name = get_commands()[name]
        parser = load_command_class(app_name, name).create_parser("director", name)
        help_of[name] = parser.format_help()
    assert len(help_of) > 25
    assert [name for name, text in help_of.items() if "Examples:" not in text] == []


def _client_commands() -> dict[str, click.Command]:
    context = click.Context(app)
    found = {name: app.get_command(context, name) for name in app.list_commands(context)}
    commands = {name: command for name, command in found.items() if command is not None}
    return commands | {f"backends {name}": one for name, one in backends.commands.items()}


@pytest.mark.parametrize("words", [[], ["--help"], ["submit", "-h"], ["backends", "pause", "-h"]])
def test_help_is_printed(desk: Desk, words: list[str]) -> None:
    assert desk.out(*words).startswith("Usage: director")


def test_management_commands_run_with_django(desk: Desk) -> None:
    assert "no issues" in desk.out("check")
    assert "no issues" in desk.out("manage", "check")
    assert desk.out("serve", "--help").startswith("usage: director serve")
    assert desk.out("--version").startswith("director ")
