"""Run pytest, then the failed tests once more, alone: python -m tests.rerun ARGUMENTS-OF-PYTEST.

The exit status is that of pytest, or 0 if each failed test passes the second time. Only a failed
test gets a second time: not a crash, a collection error, a time limit of pytest-timeout, or a run
that did not reach its end.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

MOST = 10  # failed tests that are run again
_RECORD = "rerun"


class _Record:
    """What a run has shown, in pytest's cache."""

    def __init__(self) -> None:
        self.failures: dict[str, str] = {}
        self.passed: list[str] = []
        self.final: list[str] = []  # reasons against a second time

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failures.setdefault(report.nodeid, report.longreprtext)
            if "from pytest-timeout" in report.longreprtext:
                self.final.append(f"{report.nodeid} reached the time limit of a test.")
        elif report.passed and report.when == "call":
            self.passed.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.final.append(f"{report.nodeid} cannot be collected.")

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, error: object | None) -> None:
        if error:
            self.final.append("A test process crashed.")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.shouldstop or session.shouldfail:
            self.final.append("The run did not reach its end.")
        session.config.cache.set(_RECORD, vars(self))


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Record())


def _run(cache: Path, arguments: list[str]) -> tuple[int, dict[str, Any]]:
    """Return the exit status of pytest, and its record."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.rerun", *arguments]
    status = subprocess.run(command, check=False).returncode
    path = cache / "v" / _RECORD
    return status, json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def main(arguments: list[str]) -> int:
    """Return the exit status of a suite."""
    with tempfile.TemporaryDirectory(prefix="director-pytest-") as folder:
        # A cache of its own: the failures of another suite are not run again.
        arguments = [*arguments, "-o", f"cache_dir={folder}"]
        status, first = _run(Path(folder), arguments)
        if status != pytest.ExitCode.TESTS_FAILED:
            return status
        failures = first["failures"]
        if len(failures) > MOST:
            first["final"].append(f"More than {MOST} tests failed.")
        if first["final"]:
            print("\n=== not run again:", *first["final"], sep="\n", flush=True)
            return status
        print("\n=== once more, alone:", *failures, sep="\n", flush=True)
        again, second = _run(Path(folder), [*arguments, "--lf", "--lfnf=none", "-n", "0"])
        if again or not failures.keys() <= set(second["passed"]):
            return status
    print("\n=== FLAKY: each failed once, then passed alone. Mend its cause.")
    for test, failure in failures.items():
        print(f"\n--- {test}\n{failure}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
