"""A real Chromium, a real Director and simulated ComfyUIs: nothing of the pages is played."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.browser.desk import desk_of
from tests.harness.simulator_thread import SimulatorThread

#: The shell has no window, whose processes take a third of the CPU of these tests.
_PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser")
CHROMIUM = next((found for name in _PROGRAMS if (found := shutil.which(name))), None)
#: For what takes a second on an idle machine.
PATIENCE_MS = 60_000
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-proxy-server"]
#: A selector: the root of a page whose scripts have not been executed yet.
_LOADING = """{
  queryAll() {
    const [page] = performance.getEntriesByType("navigation");
    return page && !page.domContentLoadedEventEnd ? [document.documentElement] : [];
  },
  query() { return this.queryAll()[0]; },
}"""


def _wait_for_scripts(page: Any) -> None:
    """Have the actions and expectations on a page wait until its scripts are executed.

    A click on a link returns before, when the page already shows what the server rendered: the next
    click or key would have no effect.
    """
    page.add_locator_handler(page.locator("loading=page"), lambda _: None)


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """Debian's Chromium; its tests are skipped where there is none.

    For this package, not for the session: while Playwright's blocking interface is open, a loop
    runs in this thread, and Django refuses the database to every other test.
    """
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (on Debian: apt install chromium)")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        playwright.selectors.register("loading", _LOADING)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        browser.on("context", lambda context: context.on("page", _wait_for_scripts))
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def simulators() -> Iterator[SimulatorThread]:
    """Four ComfyUIs that paint soon and show previews. A test that must see a job while it runs
    orders `slow` or `stuck`.
    """
    with SimulatorThread(4, seconds=0.5, preview_fps=4.0, lenient=True) as running:
        yield running


#: It has the groups of all tests before. A file whose tests count groups or failures has one of its
#: own.
desk = desk_of("package")


@pytest.fixture(scope="package")
def profile(browser: Any) -> Iterator[tuple[Any, list[str]]]:
    """A browser profile, and what its pages log as errors. A new one for each test loads and
    compiles all scripts again, which takes a third of the CPU of its first page.
    """
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    wrong: list[str] = []
    context.on("weberror", lambda error: wrong.append(f"{error.error}"))
    context.on(
        "console",
        lambda message: (
            wrong.append(message.text) if "Content Security Policy" in message.text else None
        ),
    )
    yield context, wrong
    context.close()


@pytest.fixture
def context(profile: tuple[Any, list[str]]) -> Iterator[Any]:
    """A browser profile without pages and cookies. What a page logs as an error fails the test."""
    context, wrong = profile
    wrong.clear()
    yield context
    for page in context.pages:
        page.close()
    context.set_offline(False)
    context.clear_cookies()
    assert wrong == []


@pytest.fixture
def page(context: Any) -> Any:
    """A page of a profile without storage."""
    page = context.new_page()
    session = context.new_cdp_session(page)
    storage = {"origin": "*", "storageTypes": "local_storage,indexeddb"}
    session.send("Storage.clearDataForOrigin", storage)
    session.detach()
    return page


@pytest.fixture(autouse=True)
def free_backends(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave nothing running for the next test of the file."""
    desk = None
    if "desk" in request.fixturenames:
        request.getfixturevalue("browser")  # first, as it may skip the test
        desk = request.getfixturevalue("desk")
    yield
    if desk is not None:
        desk.clear()
