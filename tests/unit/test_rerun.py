"""A suite of .ci/run: a test that fails once and then passes alone is reported, and every other
failure is final.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

_FLAKY = """
import os, time
from pathlib import Path
import pytest

def fails_once(name):
    mark = Path(__file__).with_name(name)
    if not mark.exists():
        mark.touch()
        pytest.fail(f"first failure of {name}")
"""
_CALL = _FLAKY + "def test_call(): fails_once('call')\n"
_SETUP = (
    "@pytest.fixture\ndef resource():\n    fails_once('setup')\ndef test_setup(resource): pass\n"
)
_TEARDOWN = (
    "@pytest.fixture\ndef late():\n    yield\n    fails_once('teardown')\ndef "
    "test_teardown(late): pass\n"
)
_MANY = (
    _FLAKY + "@pytest.mark.parametrize('number', range(%d))\ndef test_many(number): "
    "fails_once(str(number))\n"
)


def _suite(folder: Path, text: str, *arguments: str) -> tuple[int, str]:
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_passes.py").write_text("def test_passes(): pass\n")
    (folder / "test_suite.py").write_text(text)
    plugins = ["-p", "xdist.plugin", "-p", "pytest_timeout"]  # no others, which take long to import
    command = [
        sys.executable,
        "-m",
        "tests.rerun",
        *plugins,
        "-n",
        "1",
        "--dist",
        "worksteal",
        *arguments,
        folder,
    ]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_flaky_test_is_reported_with_its_first_failure(tmp_path: Path) -> None:
    status, output = _suite(tmp_path, _CALL + _SETUP + _TEARDOWN)
    _, _, flaky = output.partition("=== FLAKY")
    assert status == 0, output
    for name in ("call", "setup", "teardown"):
        assert f"test_suite.py::test_{name}\n" in flaky
        assert f"first failure of {name}" in flaky
    assert "test_passes" not in flaky


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(
            _CALL + "def test_fails(): assert False\n", "1 failed, 1 passed", id="fails again"
        ),
        pytest.param(
            _CALL + "def test_skips():\n    if Path(__file__).with_name('skips').exists(): "
            "pytest.skip()\n"
            "    fails_once('skips')\n",
            "1 passed, 1 skipped",
            id="is skipped the second time",
        ),
        pytest.param(_MANY % 11, "More than 10 tests failed.", id="eleven failures"),
        pytest.param(_FLAKY + "fails_once('import')\n", "not run again", id="collection error"),
        pytest.param(
            _FLAKY + "def test_crashes():\n    try: fails_once('crash')\n    except BaseException: "
            "os._exit(1)\n",
            "A test process crashed.",
            id="crash",
        ),
        pytest.param(
            _FLAKY + "@pytest.mark.timeout(0.2)\ndef test_hangs():\n    try: fails_once('hang')\n"
            "    except BaseException: time.sleep(60)\n",
            "reached the time limit",
            id="time limit",
        ),
    ],
)
def test_failure_that_a_second_time_cannot_excuse_fails_the_run(
    tmp_path: Path, text: str, reason: str
) -> None:
    status, output = _suite(tmp_path, text)
    assert status != 0
    assert reason in output
    assert "FLAKY" not in output


@pytest.mark.parametrize("arguments", [("-x", "-n", "0"), ("-x",)], ids=["alone", "in processes"])
def test_run_that_stops_early_fails(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    status, output = _suite(tmp_path, _MANY % 3, *arguments)
    assert status != 0
    assert "FLAKY" not in output


def test_run_without_tests_keeps_its_status(tmp_path: Path) -> None:
    assert (
        _suite(tmp_path, _CALL, "-k", "nothing_is_named_so")[0]
        == pytest.ExitCode.NO_TESTS_COLLECTED
    )


def test_ten_failures_are_run_again(tmp_path: Path) -> None:
    status, output = _suite(tmp_path, _MANY % 10)
    assert (status, output.count("\n--- ")) == (0, 10)
