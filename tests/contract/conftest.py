"""An option that holds a real ComfyUI against the recordings instead of the simulator."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from backends.simulator import Simulator
from tests.contract import recording
from tests.contract.servers import SIMULATOR, Process, Server

Serve = Callable[[str], AbstractAsyncContextManager[Server | Process]]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Registered when tests/contract is named on the command line."""
    parser.addoption(
        "--comfyui-command", help="command that starts a fresh ComfyUI on {port} with its folders in {folder}"
    )


@pytest.fixture
def serve(request: pytest.FixtureRequest, tmp_path: Path) -> Serve:
    """Give the server a recording is to be played against, by the recording's name."""
    command = request.config.getoption("--comfyui-command", default=None)

    @asynccontextmanager
    async def served(name: str) -> AsyncIterator[Server | Process]:
        previews = name in recording.WITH_PREVIEWS
        if command is None and name not in recording.WITH_PROCESS:
            fps = 1000.0 if previews else 0.0
            async with Simulator(name="contract", output_dir=tmp_path, preview_fps=fps) as running:
                yield Server(running.url, running.output_folder)
            return
        options = " --preview-method latent2rgb" if previews else ""
        server = Process(f"{command}{options}" if command else SIMULATOR, tmp_path)
        try:
            server.start()
            yield server
        finally:
            server.close()

    return served
