import json
import shlex
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cli.conftest import Desk
from tests.client.server import FakeDirector

_BAD_FILES = {
    "not.json": (b"{", "not.json is not JSON: "),
    "empty.json": (b"", "empty.json is empty."),
    "node.json": (b'{"3": {"inputs": {}}}', "node.json.3.class_type: Must be"),
    "photo.jpg": (b"\xff\xd8\xff\xe0", "photo.jpg is a JPEG"),
    "noise.bin": (b"\xfe\xfd\xfc", "noise.bin is neither JSON nor a PNG"),
    "broken.png": (b"\x89PNG\r\n\x1a\nxx", "broken.png: The body is not a PNG"),
}
_LINES: Final[dict[str, Any]] = tomllib.loads(
    Path(__file__).with_name("errors.toml").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", _BAD_FILES)
def test_file_without_a_workflow_is_refused(desk: Desk, name: str) -> None:
    content, expected = _BAD_FILES[name]
    (desk.folder / name).write_bytes(content)
    assert expected in desk.said("submit", name, "-b", "gpu-1", status=2)


@pytest.mark.parametrize(("options", "expected"), _LINES["options"].items())
def test_wrong_option_sends_nothing(desk: Desk, options: str, expected: str) -> None:
    before = desk.newest()
    assert expected in desk.said("submit", "workflow.json", *shlex.split(options), status=2)
    assert desk.newest() == before


@pytest.mark.parametrize("line", _LINES["empty"]["lines"])
def test_empty_argument_is_refused(desk: Desk, line: str) -> None:
    assert "is the variable set?" in desk.said(*shlex.split(line), status=2)


@pytest.mark.parametrize(("line", "outcome"), _LINES["refused"].items())
def test_error_says_what_is_wrong_and_what_to_do(
    desk: Desk, line: str, outcome: tuple[int, str]
) -> None:
    status, expected = outcome
    said = desk.said(*shlex.split(line), status=status)
    assert said.startswith(expected)
    assert len(said.splitlines()) > 1 or "--retry-on" in line or "--elsewhere" in line
    assert "Errno" not in said


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that cannot be written")
@pytest.mark.parametrize("words", [["submit", "workflow.json", "--all"], ["watch", "jg_0"]])
def test_folder_that_cannot_be_written_is_refused_first(desk: Desk, words: list[str]) -> None:
    said = desk.said(*words, "--save", "/proc", status=2)
    assert said.startswith("Error: The folder /proc cannot be written: ")


def test_server_that_is_no_director_is_unreachable(desk: Desk) -> None:
    said = desk.said("list", "--server", desk.sims.url, status=3)
    assert "does not answer as a Director does" in said


def test_missing_and_wrong_tokens_are_refused(desk: Desk) -> None:
    token = "a-token-of-the-studio"
    with FakeDirector() as guarded:
        refusal = {"detail": "Sign in.", "code": "sign_in_required"}
        guarded.answers["GET", "/api/job-groups"] = (401, refusal)
        said = desk.said("list", status=4, DIRECTOR_URL=guarded.url)
        assert "needs a token" in said
        assert "Set DIRECTOR_TOKEN" in said
        said = desk.said("list", status=4, DIRECTOR_URL=guarded.url, DIRECTOR_TOKEN=token)
        assert "refuses the token in DIRECTOR_TOKEN" in said
        assert token not in said
        assert guarded.requests[-1][2]["authorization"] == f"Bearer {token}"


def test_impossible_token_is_refused_and_not_printed(desk: Desk) -> None:
    for token in ("m\u00fcnchen-0123456789", "hush hush 0123456789", "hush\nhush-0123456789"):
        said = desk.said("list", status=2, DIRECTOR_TOKEN=token)
        assert said.startswith("Error: DIRECTOR_TOKEN has characters that a token cannot have.")
        assert token.split(maxsplit=1)[0] not in said


def test_error_is_json_with_the_option_json(desk: Desk) -> None:
    said = json.loads(desk.said("show", "jg_000000000000", "--json", status=4))
    assert said["detail"] == "Job group jg_000000000000 not found"
    assert (said["code"], said["exit_status"]) == ("group_not_found", 4)
    for line in ("submit", "list -n 0", "sumbit", "backends halt"):
        said = json.loads(desk.said(*line.split(), "--json", status=2))
        assert list(said) == ["detail", "code", "hint", "exit_status"]
        assert (said["code"], said["exit_status"], "director " in said["hint"]) == (
            "usage",
            2,
            True,
        )


def test_help_and_version_are_printed(desk: Desk) -> None:
    for line in ("", "--help", "submit -h", "backends pause -h"):
        assert desk.out(*line.split()).startswith("Usage: director")
    assert desk.out("--version").startswith("director ")


def test_management_commands_run_with_django(desk: Desk) -> None:
    assert "no issues" in desk.out("manage", "check")
    assert desk.out("serve", "--help").startswith("usage: director serve")
