"""A Director as a process that can be killed at a step and started again on the same data folder."""

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.processes import Served, migrated
from tests.harness.waits import until

#: The runner's times, shortened: an uncertain prompt is looked for 3 s instead of 30.
TIME_SCALE = "0.1"
_OPEN = (
    "SELECT id, status FROM jobgroups_jobgroup WHERE completed_at IS NULL"
    " UNION ALL SELECT prompt_id, state FROM jobgroups_attempt WHERE ended_at IS NULL"
)


@dataclass(frozen=True, slots=True)
class Step:
    """Where the process kills itself: see ``kill_switch``."""

    at: str
    moment: str
    call: int = 1

    @property
    def paths(self) -> set[str]:
        """The file of the product in which the process is killed."""
        return {f"{self.at.partition(':')[0].replace('.', '/')}.py"}


class Director(Served):
    """One data folder, and the process that serves it now. Not started yet."""

    def __init__(
        self, folder: Path, backends: list[str], environment: dict[str, str] | None = None
    ) -> None:
        self._note = folder / "killed-at"
        super().__init__(
            folder,
            backends,
            environment={
                "DIRECTOR_TIME_SCALE": TIME_SCALE,
                "PLUG_NOTE": str(self._note),
                **(environment or {}),
            },
            program=["-m", "tests.harness.kill_switch"],
            start=False,
            keeps_port=True,
        )

    def start(self, step: Step | None = None, *, wait: bool = True, **variables: str) -> None:
        """Start ``serve``; with a step, one of which the process that comes to it kills itself."""
        if self.runs:
            self.kill()
        self._note.unlink(missing_ok=True)
        if step is not None:
            variables |= {"PLUG_STEP": step.at, "PLUG_MOMENT": step.moment}
            variables |= {"PLUG_CALL": str(step.call)}
        self._variables = variables
        super().start(wait=wait, **variables)

    def go_on_after(self, signals: str) -> None:
        """Wait for each signal of ``PLUG_SIGNALS``: go on after SIGSTOP, and start again after the
        end of ``serve``.
        """
        for number in range(len(signals.split())):

            def note(number: int = number) -> list[str]:
                return (
                    self._note.exists()
                    and self._note.read_text(encoding="utf-8").splitlines()[number:]
                )

            order, pid = until(note, 90.0, self.printed)[0].split()
            if order.endswith("SIGSTOP"):
                time.sleep(1.0)
                os.kill(int(pid), signal.SIGCONT)
            elif int(pid) == self.process.pid:
                code = self.process.wait(30.0)
                assert code in (0, -signal.SIGKILL), self.printed()
                Served.start(self, **self._variables)

    def wait_ready(self, within: float = 90.0) -> None:
        """Wait until it is ready or has killed itself."""
        try:
            super().wait_ready(within)
        except AssertionError:
            if self.process.returncode == -signal.SIGKILL and self._note.exists():
                return  # as ordered
            raise

    @property
    def was_killed(self) -> bool:
        return self._note.exists() and (self.is_supervised or not self.runs)

    def restart_when_killed(self) -> None:
        """Wait for the kill, and start again without a step, unless ``serve`` itself does that."""
        self.wait_killed()
        if not self.is_supervised:
            self.start()

    def wait_killed(self, within: float = 90.0) -> None:
        """Wait until it, or one of its processes, has killed itself; fail if it does not reach the
        step.
        """
        if self.is_supervised:
            until(self._note.exists, within, self.printed)
            return
        try:
            code = self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it never came to the step:\n{self.printed()}") from None
        assert code == -signal.SIGKILL, f"ended with {code}:\n{self.printed()}"
        assert self._note.exists(), "another process killed it"

    def rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        return rows(self.data, query, *values)

    def wait_settled(self, within: float = 90.0) -> None:
        """Wait until every group has ended and no attempt is active: all stops were honoured."""

        def open_rows() -> list[tuple[Any, ...]]:
            return [tuple(row) for row in self.rows(_OPEN)]

        until(
            lambda: not open_rows(), within, lambda: f"{open_rows()[:10]}\n{self.printed()[-3000:]}"
        )


def rows(data: Path, query: str, *values: Any) -> list[sqlite3.Row]:
    with closing(sqlite3.connect(data / "director.sqlite3", timeout=60.0)) as database:
        database.row_factory = sqlite3.Row
        return database.execute(query, values).fetchall()


@contextmanager
def directing(
    folder: Path, backends: list[str], environment: dict[str, str] | None = None
) -> Iterator[Director]:
    """Give a Director that was not started yet; kill what is left of it at the end."""
    director = Director(folder, backends, environment)
    shutil.copytree(migrated(), director.data, dirs_exist_ok=True)
    try:
        yield director
    finally:
        director.close()
