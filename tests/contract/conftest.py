"""An option that holds a real ComfyUI against the recordings instead of the simulator."""

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from backends.simulator import Simulator
from backends.simulator.config import DEFAULT_CHECKPOINTS
from backends.simulator.node_context import NodeContext
from tests.contract import recording
from tests.contract.servers import SIMULATOR, Process, Server

_HELD: Final = 0.005  #: Seconds between two looks at whether a node may go on.

Serve = Callable[[tuple[str, ...]], AbstractAsyncContextManager[Server | Process]]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Registered when tests/contract is named on the command line."""
    parser.addoption(
        "--comfyui-command",
        help="command that starts a fresh ComfyUI on {port} with its folders in {folder}",
    )


def _held_by(server: Server) -> Callable[..., Awaitable[None]]:
    """Return a wait of nodes that lasts until the replay has taken the steps that come before their
    next frames.
    """
    wait = NodeContext.wait

    async def held(node: NodeContext, seconds: float, **options: bool) -> None:
        await wait(node, seconds, **options)
        while server.go_on is not None and not await server.go_on():
            await wait(node, _HELD, **options)

    return held


@pytest.fixture
def serve(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
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
            settings: dict[str, Any] = {
                "preview_fps": fps,
                "version": version,
                "checkpoints": models,
            }
            async with Simulator(name="contract", output_dir=folder, **settings) as running:
                server = Server(running.url, running.output_folder)
                monkeypatch.setattr(NodeContext, "wait", _held_by(server))
                yield server
            return
        options = " --preview-method latent2rgb" if previews else ""
        simulated = f"{SIMULATOR} --seconds 0 --comfyui-version {version}"
        process = Process(f"{command}{options}" if command else simulated, folder)
        try:
            process.start()
            yield process
        finally:
            process.close()

    return served
