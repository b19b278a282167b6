"""Pages in every state of groups, jobs and backends: their layout problems, and screenshots of
them.
"""

import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.processes import Served, filled

WIDTHS = (390, 1440, 2560)
THEMES = ("light", "dark")
#: A picture is cut off below: a thousand cards look like a hundred.
_TALLEST = 4_000


@dataclass(frozen=True, slots=True)
class Page:
    """A page, what is done on it before the screenshot, and its name in file names."""

    name: str
    path: str
    #: Selectors that are clicked one after the other.
    clicks: tuple[str, ...] = ()
    #: Open, it is shown as it stands in the window.
    window: bool = False
    fast: bool = False


def pages(groups: dict[str, str]) -> list[Page]:
    """Return what is looked at."""
    listed = tomllib.loads(Path(__file__).with_name("pages.toml").read_text(encoding="utf-8"))
    return [
        Page(name, **{**page, "path": page["path"].format(**groups)})
        for name, page in listed.items()
    ]


@contextmanager
def full(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Serve a Director in which every state occurs; yield its address and the groups' ids."""
    script = (
        "import json; from tests.browser import every_state\nprint(json.dumps(every_state.fill()))"
    )
    groups = json.loads(filled(folder, script))
    served = Served(folder, arguments=("--port", "0", "--no-runner"))
    try:
        yield served.url, groups
    finally:
        served.stop()


def show(tab: Any, url: str, page: Page) -> None:
    answer = tab.goto(f"{url}{page.path}")
    assert answer.status in (200, 404), f"{page.path}: {answer.status}"
    tab.wait_for_function(
        "() => (document.querySelector('#line-live')?.textContent ?? 'live') === 'live'"
    )
    for selector in page.clicks:
        tab.locator(selector).first.click()
    tab.evaluate("() => scrollTo(0, document.body.scrollHeight)")
    tab.evaluate("() => scrollTo(0, 0)")
    tab.wait_for_timeout(400)


_LAYOUT, _SIGNS = (
    Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("layout.js", "signs.js")
)


def wrong_on(tab: Any) -> list[str]:
    """Return what is out of place on the page that is shown."""
    found: list[str] = tab.evaluate(_LAYOUT)
    return found


def missing_signs(tab: Any) -> list[str]:
    """Return the signs that are missing on the page that is shown, at any width."""
    found: list[str] = tab.evaluate(_SIGNS)
    return found


def take(tab: Any, page: Page, path: Path) -> None:
    if not page.window:  # what sticks to the window would lie over the middle of a tall picture
        tab.evaluate(
            "() => { for (const one of document.querySelectorAll('.top, .line, .send')) "
            "one.style.position = 'static'; }"
        )
    tall = tab.evaluate("document.documentElement.scrollHeight")
    if page.window or tall <= tab.viewport_size["height"]:
        tab.screenshot(path=path)
        return
    size = {"x": 0, "y": 0, "width": tab.viewport_size["width"], "height": min(tall, _TALLEST)}
    tab.screenshot(path=path, full_page=True, clip=size)
