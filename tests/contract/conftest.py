"""Options that hold a real ComfyUI against the recordings instead of the simulator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.contract import offwire, servers

Serve = Callable[[str], AbstractAsyncContextManager[servers.Server]]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Registered when tests/contract is named on the command line."""
    parser.addoption("--comfyui", help="URL of a running ComfyUI with the Test* nodes")
    parser.addoption(
        "--comfyui-command", help="command that starts a fresh ComfyUI on {port} with its folders in {folder}"
    )


@pytest.fixture
def serve(request: pytest.FixtureRequest, tmp_path: Path) -> Serve:
    """Give the server a recording is to be played against, by the recording's name."""
    url = request.config.getoption("--comfyui", default=None)
    command = request.config.getoption("--comfyui-command", default=None)

    def choose(name: str) -> AbstractAsyncContextManager[servers.Server]:
        previews = name in offwire.WITH_PREVIEWS
        if url:
            return _attached(url, name)
        if command:
            options = " --preview-method latent2rgb" if previews else ""
            return servers.process(command + options, tmp_path)
        if name in offwire.WITH_PROCESS:
            return servers.process(servers.SIMULATOR, tmp_path)
        return servers.simulator(tmp_path, previews=previews)

    return choose


@pytest.fixture
def used_server(request: pytest.FixtureRequest) -> bool:
    """Whether the server has run other prompts before, so that its counters stand elsewhere."""
    return bool(request.config.getoption("--comfyui", default=None))


@asynccontextmanager
async def _attached(url: str, name: str) -> AsyncIterator[servers.Server]:
    """A running ComfyUI, its queue, history and node cache emptied."""
    needs_own = offwire.WITH_PROCESS | offwire.WITH_PREVIEWS | {n for n, _ in offwire.REMOVED}
    if name in needs_own or name.startswith(("13_", "16_")):
        pytest.skip("breaks its server, or needs a restart: use --comfyui-command")
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        await http.post("/queue", json={"clear": True})
        await http.post("/history", json={"clear": True})
        await http.post("/free", json={"unload_models": True, "free_memory": True})
    yield servers.Endless(url, Path())
