"""A web process and runners as processes of their own, over one database."""

from collections.abc import Sequence
from pathlib import Path

from tests.harness import laws
from tests.harness.machines import Machines
from tests.harness.processes import Launched, LaunchedFiles, LaunchedRunner, Served

WEB = ("--no-runner", "--port", "0")
#: The runner's intervals: an uncertain prompt is looked up for 9 s instead of 30 s.
TIME_SCALE = "0.3"


class ProcessFarm:
    """A web process and runners over one database, over simulated ComfyUIs."""

    def __init__(
        self, folder: Path, gpus: Machines, *, web: Sequence[str] = WEB, **environment: str
    ) -> None:
        self.gpus = gpus
        self._folder = folder
        self._settings = {
            "DIRECTOR_BACKENDS": ",".join(gpus.urls),
            "DIRECTOR_TIME_SCALE": TIME_SCALE,
            **environment,
        }
        self._launched: list[Launched] = []
        self.web = Served(folder, arguments=web, environment=self._settings, start=False)
        self._launched.append(self.web)

    def another_web(self) -> Served:
        folder = self._folder / f"web-{len(self._launched)}"
        folder.mkdir()
        web = Served(folder, arguments=("--no-migrate", *WEB), environment=self._settings)
        self._launched.append(web)
        return web

    def runner(self, name: str, *, wait: bool = True, **environment: str) -> LaunchedRunner:
        folder = self._folder / f"runner-{len(self._launched)}"
        folder.mkdir()
        data = {"DIRECTOR_DATA_DIR": str(self._folder / "data")}
        variables = self._settings | data | environment
        runner = LaunchedRunner(folder, "--name", name, environment=variables)
        self._launched.append(runner)
        runner.start(wait=wait)
        return runner

    def files(self, **environment: str) -> LaunchedFiles:
        """Start a process of `files` and wait until it is ready."""
        folder = self._folder / f"files-{len(self._launched)}"
        folder.mkdir()
        data = {"DIRECTOR_DATA_DIR": str(self._folder / "data")}
        files = LaunchedFiles(folder, environment=self._settings | data | environment)
        self._launched.append(files)
        files.start()
        return files

    def check(self, name: str) -> dict[str, str]:
        found: dict[str, str] = self.web.ask("GET", "/api/health").json()["checks"][name]
        return found

    def check_completed_once(self, *group_ids: str) -> None:
        """Wait for the end of groups; check that they completed, and that each job was executed
        once.
        """
        groups = [self.web.wait_ended(one) for one in group_ids]
        assert {group["status"] for group in groups} == {"completed"}
        jobs = sorted(child["job_id"] for group in groups for child in group["child_jobs"])
        assert laws.executed_once(self.gpus.seen()) == jobs

    def close(self) -> None:
        for process in self._launched:
            process.close()
