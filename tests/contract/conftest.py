"""An option that holds a real ComfyUI against the recordings instead of the simulator."""

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from backends.simulator import Simulator
from backends.simulator.config import DEFAULT_CHECKPOINTS
from tests.contract import recording
from tests.contract.servers import SIMULATOR, Process, Server

Serve = Callable[[tuple[str, ...]], AbstractAsyncContextManager[Server | Process]]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Registered when tests/contract is named on the command line."""
    parser.addoption(
        "--comfyui-command", help="command that starts a fresh ComfyUI on {port} with its folders in {folder}"
    )


@pytest.fixture
def serve(request: pytest.FixtureRequest, tmp_path: Path) -> Serve:
    """Give the server that recordings are to be played against, by their names."""
    command = request.config.getoption("--comfyui-command", default=None)

    @asynccontextmanager
    async def served(chain: tuple[str, ...]) -> AsyncIterator[Server | Process]:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        previews = not set(chain).isdisjoint(recording.OFF_WIRE["with_previews"])
        version = recording.version_of(chain[0])
        if command is None and set(chain).isdisjoint(recording.OFF_WIRE["with_process"]):
            fps = 1000.0 if previews else 0.0
            models = () if chain[0] in recording.OFF_WIRE["without_models"] else DEFAULT_CHECKPOINTS
            settings: dict[str, Any] = {"preview_fps": fps, "version": version, "checkpoints": models}
            async with Simulator(name="contract", output_dir=folder, **settings) as running:
                yield Server(running.url, running.output_folder)
            return
        options = " --preview-method latent2rgb" if previews else ""
        simulated = f"{SIMULATOR} --seconds 0 --comfyui-version {version}"
        server = Process(f"{command}{options}" if command else simulated, folder)
        try:
            server.start()
            yield server
        finally:
            server.close()

    return served
