"""Every page in every state that ``contact_sheet`` shows: nothing out of place, nothing serious for axe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser import contact_sheet
from tests.browser.contact_sheet import TABLE, THEMES, WIDTHS, Page
from tests.browser.test_soundness import serious


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A Director in which every state occurs."""
    with contact_sheet.filled(tmp_path_factory.mktemp("sheet")) as made:
        yield made


@pytest.fixture(params=THEMES)
def themed(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    context = browser.new_context(color_scheme=request.param, reduced_motion="reduce")
    context.set_default_timeout(20_000)
    yield context.new_page()
    context.close()


def look(tab: Any, url: str, page: Page) -> list[str]:
    """Return what is wrong with a page: at both widths, and on a phone what axe says as well."""
    found = []
    for width in WIDTHS:
        tab.set_viewport_size({"width": width, "height": 844})
        contact_sheet.show(tab, url, page)
        found += [f"{page.name} {width}: {one}" for one in contact_sheet.wrong_on(tab)]
    return found + [f"{page.name}: {one}" for one in serious(tab)]


@pytest.mark.slow
@pytest.mark.timeout(590)
def test_every_state_is_in_its_place(themed: Any, sheet: tuple[str, dict[str, str]]) -> None:
    url, groups = sheet
    found = [said for page in contact_sheet.pages(groups) for said in look(themed, url, page)]
    assert found == []


@pytest.mark.timeout(300)
def test_many_backends_are_in_their_place(themed: Any, sheet: tuple[str, dict[str, str]]) -> None:
    url, _ = sheet
    contact_sheet.add_backends(url)
    assert look(themed, url, TABLE) == []
    assert themed.locator("table.machines tbody tr").count() > 12


def test_what_is_out_of_place_is_noticed(themed: Any, sheet: tuple[str, dict[str, str]]) -> None:
    url, groups = sheet
    contact_sheet.show(themed, url, Page("one", f"/groups/{groups['one']}"))
    assert contact_sheet.wrong_on(themed) == []
    themed.evaluate(
        """() => {
          document.querySelector('use').setAttribute('href', '/static/director/icons.svg#nothing');
          document.querySelector('.card .anchor').style.cssText = 'width: 3000px; flex: none';
          document.querySelector('.card .button').style.cssText = 'position: fixed; top: 0; left: 0';
          document.querySelector('.head .button').style.cssText = 'position: fixed; top: 0; left: 0';
        }"""
    )
    said = "\n".join(contact_sheet.wrong_on(themed))
    for one in ("no sign for nothing", "beyond the edge", "lies over"):
        assert one in said
