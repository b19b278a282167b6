"""A real ComfyUI, named by ``COMFYUI=http://host:port``, and a Director in front of it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from director.client import Director
from tests.real.comfyui import ComfyUI
from tests.real.owned import OwnComfyUI, own_comfyui
from tests.real.report import Report, facts_of
from tests.real.served import serving

NODES = ("DirectorTestSampler", "DirectorTestFail", "DirectorTestSleep")
INSTALL = "This ComfyUI lacks {}: copy or link tests/real/comfy_nodes into its custom_nodes folder and restart it."


@pytest.fixture(scope="session")
def comfyui() -> Iterator[ComfyUI]:
    """The real one, with the test's nodes installed and nobody else's work in its queue."""
    url = os.environ.get("COMFYUI", "").strip()
    if not url:
        pytest.skip("needs a real ComfyUI: make test-real COMFYUI=http://127.0.0.1:8188")
    comfyui = ComfyUI(url if "://" in url else f"http://{url}")
    _require_nodes(comfyui)
    comfyui.wait_idle()
    yield comfyui
    comfyui.close()


def _require_nodes(comfyui: ComfyUI) -> None:
    missing = [name for name in NODES if not comfyui.get(f"/object_info/{name}")]
    if missing:
        pytest.fail(INSTALL.format(", ".join(missing)), pytrace=False)


@pytest.fixture(scope="session")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnComfyUI]:
    """One of the tests' own, which they may kill if they leave it running."""
    command = os.environ.get("COMFYUI_COMMAND", "").strip()
    if not command:
        pytest.skip("kills its ComfyUI: COMFYUI_COMMAND='… {port} … {folder} …' starts one for it")
    with own_comfyui(command, tmp_path_factory.mktemp("comfyui")) as comfyui:
        _require_nodes(comfyui)
        yield comfyui


@pytest.fixture(scope="session")
def director(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Director]:
    """A client of a Director whose only backend is the real ComfyUI."""
    with serving(tmp_path_factory.mktemp("director"), comfyui.url) as client:
        yield client


@pytest.fixture(scope="session")
def backend_id(director: Director) -> str:
    """The id under which the Director knows the real ComfyUI."""
    (backend,) = director.backends()
    return backend.backend_id


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest, comfyui: ComfyUI, director: Director) -> Iterator[Report]:
    """Takes a line from every test; written at the end if asked for and nothing failed."""
    version = director.health().version or "unknown"
    report = Report(facts_of(version, comfyui.get("/system_stats")))
    yield report
    if os.environ.get("REPORT", "").strip() not in ("", "0") and not request.session.testsfailed:
        report.write()


@pytest.fixture
def prefix(request: pytest.FixtureRequest, comfyui: ComfyUI) -> Iterator[str]:
    """A file name prefix in a subfolder of the test's own; the queue is empty again at its end."""
    comfyui.wait_idle()
    yield f"director-test/{request.node.originalname}"
    comfyui.wait_idle()
