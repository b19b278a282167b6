"""A real ComfyUI, named by ``COMFYUI=http://host:port``, and a Director in front of it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from director.client import Director
from tests.browser.conftest import browser  # noqa: F401 the tests' fixture
from tests.harness.processes import Served, stop_in_order
from tests.real.comfyui import ComfyUI, OwnComfyUI


@contextmanager
def served(folder: Path, *urls: str) -> Iterator[tuple[Served, Director]]:
    """Serve with these ComfyUIs as the only backends; yield the process and a client of it."""
    process = Served(folder, urls, keeps_port=True)
    try:
        process.wait_online()
        with Director(process.url) as client:
            yield process, client
    finally:
        stop_in_order(process)


@pytest.fixture(scope="session")
def comfyui() -> Iterator[ComfyUI]:
    """The real one, with the test's nodes installed and an empty queue."""
    url = os.environ.get("COMFYUI", "").strip()
    if not url:
        pytest.skip("needs a real ComfyUI: make test-real COMFYUI=http://127.0.0.1:8188")
    with _connected(url) as comfyui:
        yield comfyui


@pytest.fixture(scope="session")
def second(request: pytest.FixtureRequest) -> Iterator[ComfyUI]:
    """Another one: that of ``COMFYUI_SECOND``, or the tests' own."""
    url = os.environ.get("COMFYUI_SECOND", "").strip()
    if not url:
        yield request.getfixturevalue("mortal")
        return
    with _connected(url) as comfyui:
        yield comfyui


@contextmanager
def _connected(url: str) -> Iterator[ComfyUI]:
    comfyui = ComfyUI(url if "://" in url else f"http://{url}")
    _require_nodes(comfyui)
    comfyui.wait_idle()
    yield comfyui
    comfyui.close()


def _require_nodes(comfyui: ComfyUI) -> None:
    if not comfyui.get("/object_info/TestSampler"):
        pytest.fail(
            "This ComfyUI lacks the nodes of tests/contract/testnodes.py: copy or link that file "
            "into "
            "its custom_nodes folder and restart it.",
            pytrace=False,
        )


@pytest.fixture(scope="session")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnComfyUI]:
    """One of the tests' own, which they may kill if they leave it running."""
    command = os.environ.get("COMFYUI_COMMAND", "").strip()
    if not command:
        pytest.skip("kills its ComfyUI: COMFYUI_COMMAND='… {port} … {folder} …' starts one for it")
    comfyui = OwnComfyUI(command, tmp_path_factory.mktemp("comfyui"))
    try:
        _require_nodes(comfyui)
        yield comfyui
    finally:
        comfyui.close()


@pytest.fixture(scope="session")
def running(
    comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, Director]]:
    """A Director whose only backend is the real ComfyUI, and a client of it."""
    with served(tmp_path_factory.mktemp("director"), comfyui.url) as both:
        yield both


@pytest.fixture(scope="session")
def director(running: tuple[Served, Director]) -> Director:
    return running[1]


@pytest.fixture(scope="session")
def backend_id(director: Director) -> str:
    (backend,) = director.backends()
    return backend.backend_id


@pytest.fixture
def prefix(request: pytest.FixtureRequest, comfyui: ComfyUI) -> Iterator[str]:
    """A file name prefix in a subfolder of the test's own; the queue is empty again at its end."""
    comfyui.wait_idle()
    yield f"director-test/{request.node.originalname}"
    comfyui.wait_idle()
