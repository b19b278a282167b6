"""What must hold on every page: layout, accessibility by axe, markup as text, no foreign requests."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser import contact_sheet
from tests.browser.contact_sheet import THEMES, WIDTHS, Page
from tests.browser.desk import SHIFTS, Desk
from tests.browser.every_state import HOSTILE
from tests.browser.load import farm_paint, growth, measure, studio
from tests.harness.processes import Served

LONG = "A very long name <b>with markup</b> " + "and_no_blanks_" * 14
MARKUP = "<img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def bad_day(desk: Desk) -> str:
    """A group with pictures, a failure, something cancelled, and names that nobody expects."""
    desk.order(0, name="node_error", message=f"Out of memory {MARKUP}", after=1)
    group = desk.submit(8, metadata={"name": LONG[:200], "artist": MARKUP, MARKUP: 1})
    last = desk.status(group)["child_jobs"][-1]["job_id"]
    desk.http.delete(f"{desk.url}/api/job-groups/{group}/jobs/{last}")
    status = desk.until_ended(group)
    assert status["failed_count"] == 1
    return group


def faults(page: Any) -> list[str]:
    """Return what axe finds, but for what is minor."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(Axe().axe_script)
    found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:200]} {one['nodes'][0].get('failureSummary', '')}"
        for one in found
        if one["impact"] != "minor"
    ]


def sound(page: Any) -> None:
    """Check the layout on a phone and on a desk, and accessibility on the phone.

    The walk over every state has axe on the desk.
    """
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 844})
        assert contact_sheet.wrong_on(page) == []
    assert contact_sheet.missing_signs(page) + faults(page) == []
    page.set_viewport_size({"width": 1280, "height": 844})


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    with contact_sheet.full(tmp_path_factory.mktemp("sheet")) as made:
        yield made


@pytest.fixture(params=[THEMES[0], pytest.param(THEMES[1], marks=pytest.mark.slow)])
def themed(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    context = browser.new_context(color_scheme=request.param, reduced_motion="reduce")
    context.set_default_timeout(60_000)
    context.add_init_script(Axe().axe_script)  # Not sent again for each page.
    yield context.new_page()
    context.close()


def problems(tab: Any, url: str, page: Page, *, every: bool) -> list[str]:
    """Return what is wrong with a page: its layout at all widths, and what axe finds at one of
    them, or at every one.

    Screenshots are written to the folder that CONTACT_SHEET names.
    """
    found = []
    theme = THEMES[tab.evaluate("+matchMedia('(prefers-color-scheme: dark)').matches")]
    for width in WIDTHS:
        tab.set_viewport_size({"width": width, "height": 844})
        if every or width == WIDTHS[0]:
            contact_sheet.show(tab, url, page)
        seen = contact_sheet.wrong_on(tab)
        if every or width == WIDTHS[-1]:
            seen += contact_sheet.missing_signs(tab) + faults(tab)
        found += [f"{page.name} {width}: {one}" for one in seen]
        if out := os.environ.get("CONTACT_SHEET"):
            contact_sheet.take(tab, page, Path(out) / f"{page.name}-{theme}-{width}.png")
    return found


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.timeout(590)
def test_every_state_is_in_its_place(
    themed: Any, sheet: tuple[str, dict[str, str]], every: bool
) -> None:
    url, groups = sheet
    pages = [page for page in contact_sheet.pages(groups) if every or page.fast]
    assert len(pages) >= 7
    assert [found for page in pages for found in problems(themed, url, page, every=every)] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_five_hundred_groups_and_fifty_that_run_stay_light(browser: Any, tmp_path: Path) -> None:
    load = measure(browser, tmp_path, seconds=float(os.environ.get("LOAD_SECONDS", "9")))
    print(load)
    assert load.paint < 5.0
    assert load.groups < 0.8
    assert load.group < 0.3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_page_that_is_open_all_day_does_not_grow(browser: Any, tmp_path: Path) -> None:
    pages = growth(browser, tmp_path)
    print(pages)
    assert [growths for growths in pages.values() if max(growths.values()) > 1.2] == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_hundred_backends_are_painted_soon(browser: Any, tmp_path: Path) -> None:
    paint = farm_paint(browser, tmp_path)
    print(paint)
    assert paint < 12.0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_studio_sees_bad_backends_finds_pictures_and_stops_in_few_actions(
    browser: Any, tmp_path: Path
) -> None:
    with studio(browser, tmp_path) as opened:
        page, url = opened.page, opened.served.url
        page.add_init_script(SHIFTS)
        settled = "() => document.querySelector('#line-live')?.textContent === 'live'"

        def open_groups() -> int:
            return int(page.request.get(f"{url}/api/job-groups/cancel").json()["groups"])

        def is_steady() -> None:
            assert page.evaluate("window.shifted || 0") <= 0.05, page.evaluate("moves.join('\\n')")
            assert faults(page) == []

        # The slow and the flaky backend are the first two of 200; the open page costs little.
        page.goto(f"{url}/backends")
        rows = page.locator("#farm tbody tr")
        expect(rows).to_have_count(200)
        first = {rows.nth(index).inner_text() for index in (0, 1)}
        assert {("gpu-7" in one, "slow" in one) for one in first} == {(True, True), (False, False)}
        assert {("gpu-13" in one, "flaky" in one) for one in first} == {
            (True, True),
            (False, False),
        }
        page.wait_for_function(settled)
        network = page.context.new_cdp_session(page)
        network.send("Network.enable")
        sizes: list[float] = []
        network.on("Network.loadingFinished", lambda one: sizes.append(one["encodedDataLength"]))
        network.on(
            "Network.webSocketFrameReceived",
            lambda one: sizes.append(len(one["response"]["payloadData"])),
        )
        page.wait_for_timeout(30_000)
        assert sum(sizes) <= 10_000, sizes
        is_steady()

        # A picture of last week: three actions.
        page.goto(url)
        page.wait_for_function(settled)
        is_steady()
        page.get_by_role("link", name="Gallery").click()
        page.wait_for_url("**/gallery")
        page.wait_for_function(settled)
        page.get_by_role("searchbox").fill("storm at the pier")
        page.locator(".tile", has_text="Storm at the pier").first.locator(".picture").click()
        expect(page.locator("#viewer-title")).to_contain_text("a.png")
        page.goto(f"{url}/gallery")
        page.wait_for_function(settled)
        is_steady()
        answers = [opened.cpu(lambda: page.request.get(f"{url}/gallery")) for _ in range(5)]
        paint = opened.paint("/gallery") / opened.paint("/submit")
        print(
            f"gallery: {min(answers):.2f} s of CPU for its HTML, {paint:.1f} × a page without rows"
        )
        assert min(answers) <= 0.3
        assert paint <= 8.0

        # Twelve pictures with three values: six actions.
        page.goto(url)
        page.get_by_role("link", name="Submit", exact=True).click()
        page.locator(".recent a").first.click()
        page.get_by_role("button", name="Vary cfg of node 3").click()
        page.keyboard.insert_text("5, 7, 9")
        page.get_by_label("Seeds per combination").fill("4")
        expect(page.locator("#sends")).to_contain_text("12 jobs")
        assert open_groups() == 1
        page.get_by_role("button", name="Submit", exact=True).click()
        page.wait_for_url("**/groups/jg_*")
        expect(page.locator(".card, .cell")).to_have_count(12)

        # Everything is stopped: two actions.
        page.goto(url)
        page.get_by_role("button", name="Stop all …").click()
        page.get_by_role("dialog").get_by_role("button", name="Stop all").click()
        expect(page.locator("#cancel-all")).to_be_hidden()
        assert open_groups() == 0


def test_viewer_goes_on_over_the_pages_of_a_group(
    page: Any, sheet: tuple[str, dict[str, str]]
) -> None:
    url, groups = sheet
    page.goto(f"{url}/groups/{groups['thousand']}?page=2")
    page.locator(".picture").first.click()
    for key, shown in (("ArrowLeft", "120/120"), ("ArrowRight", "1/120")):
        page.keyboard.press(key)
        expect(page.locator("#viewer-title")).to_contain_text(shown)


def test_form_has_its_button_above_the_footer_and_promises_nothing_of_a_silent_backend(
    page: Any, sheet: tuple[str, dict[str, str]]
) -> None:
    url, groups = sheet
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(f"{url}/submit?from={groups['looks']}")
    expect(page.locator("#can-run-said")).to_have_text(
        "1 backend has not described all nodes of the workflow yet, and may be able to run it."
    )
    send = page.locator("#send").bounding_box()
    assert send["y"] + send["height"] <= page.locator("#line").bounding_box()["y"]


def test_numbers_of_jobs_are_whole_beside_long_values(
    page: Any, sheet: tuple[str, dict[str, str]]
) -> None:
    url, groups = sheet
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 844})
        page.goto(f"{url}/groups/{groups['sweep']}?view=jobs")
        cut = """links => links.filter((link) => link.getBoundingClientRect().right
            > link.parentElement.getBoundingClientRect().right + 1).map((link) => link.textContent)"""
        assert page.locator(".card .anchor").evaluate_all(cut) == []


def test_values_of_a_grid_are_whole_on_a_phone_beside_its_settings(
    page: Any, sheet: tuple[str, dict[str, str]]
) -> None:
    url, groups = sheet
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{url}/groups/{groups['sweep']}")
    cut = "all => all.filter((one) => one.scrollHeight > one.clientHeight + 1).length"
    assert page.locator(".grid tbody .value").evaluate_all(cut) == 0
    assert page.locator("#about summary").bounding_box()["width"] >= 80


def test_question_before_a_cancel_counts_what_runs(
    page: Any, sheet: tuple[str, dict[str, str]]
) -> None:
    url, groups = sheet
    page.goto(f"{url}/groups/{groups['three']}")
    page.get_by_role("button", name="Cancel group …").click()
    expect(page.get_by_role("dialog")).to_contain_text(
        "2 jobs will not be finished; 1 of them runs now."
    )


def test_plan_of_a_retry_over_a_hundred_backends_leaves_the_question_in_sight(
    page: Any, sheet: tuple[str, dict[str, str]]
) -> None:
    url, groups = sheet
    page.goto(f"{url}/groups/{groups['partial']}")
    page.get_by_role("button", name="Retry 3 failed …").click()
    # As if each job had failed at a backend of its own.
    page.locator("#place-plan li").first.evaluate(
        "(line) => line.after(...Array.from({length: 100}, () => line.cloneNode(true)))"
    )
    expect(page.locator("#place-title")).to_be_in_viewport()
    expect(page.locator("#place-yes")).to_be_in_viewport()


def test_navigation_fits_phones_and_narrow_windows(
    page: Any, sheet: tuple[str, dict[str, str]]
) -> None:
    page.goto(sheet[0])
    expect(page.locator(".tally")).to_be_visible()
    for width in (320, 360, 390, 500, 681):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert width < 360 or page.locator(".top").bounding_box()["height"] < 60, "two rows"


@pytest.mark.parametrize("width", [1280, 390])
def test_list_of_groups_shows_how_many_jobs_failed(
    page: Any, sheet: tuple[str, dict[str, str]], width: int
) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    page.goto(sheet[0])
    expect(page.locator(".counted .bad")).not_to_have_count(0)
    beyond = """all => all.filter((one) => one.getBoundingClientRect().right
        > one.closest(".counted").getBoundingClientRect().right).map((one) => one.textContent)"""
    assert page.locator(".counted .bad").evaluate_all(beyond) == []


def test_gallery_without_outputs_says_so_in_the_middle(
    page: Any, sheet: tuple[str, dict[str, str]]
) -> None:
    page.goto(f"{sheet[0]}/gallery?text=nothing+fits")
    box = page.get_by_role("heading", name="No matching outputs").bounding_box()
    assert abs(box["x"] + box["width"] / 2 - page.viewport_size["width"] / 2) < 20


def test_a_message_covers_no_action_of_what_is_selected(
    page: Any, sheet: tuple[str, dict[str, str]]
) -> None:
    url, _ = sheet
    for path in ("/", "/backends"):
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 844})
            page.goto(f"{url}{path}")
            page.locator("[name=pick]").first.check()
            page.evaluate("import('/static/director/dom.js').then(({ toast }) => toast('Said'))")
            expect(page.locator("#toast")).to_be_visible()
            bar, toast = (page.locator(one).bounding_box() for one in ("#selection", "#toast"))
            below = bar["y"] + bar["height"]
            assert toast["y"] + toast["height"] <= bar["y"] or below <= toast["y"]


def test_what_is_out_of_place_is_noticed(page: Any, sheet: tuple[str, dict[str, str]]) -> None:
    url, groups = sheet
    contact_sheet.show(page, url, Page("one", f"/groups/{groups['one']}"))
    assert contact_sheet.wrong_on(page) + contact_sheet.missing_signs(page) == []
    page.evaluate(
        """() => {
          document.querySelector('use').setAttribute('href', '/static/director/icons.svg#nothing');
          document.querySelector('.card .step').style.cssText = 'width: 3000px; flex: none';
          document.querySelector('.shows .button').style.cssText = 'position: fixed; top: 0; left: 0';
          document.querySelector('.head .button').style.cssText = 'position: fixed; top: 0; left: 0';
        }"""
    )
    found = "\n".join(contact_sheet.wrong_on(page) + contact_sheet.missing_signs(page))
    for problem in ("no sign for nothing", "beyond the edge", "lies over"):
        assert problem in found


def test_markup_in_names_metadata_and_errors_is_text(desk: Desk, page: Any, bad_day: str) -> None:
    page.goto(f"{desk.url}/groups/{bad_day}")
    expect(page.get_by_role("heading", level=1)).to_contain_text("<b>with markup</b>")
    assert page.locator("#cards").bounding_box()["y"] <= 200, "a long name moves the pictures down"
    page.get_by_text("About this group").click()
    expect(page.locator("#about")).to_contain_text(MARKUP)
    expect(page.locator(".error-words").first).to_contain_text(MARKUP)
    assert page.locator('img[src="x"]').count() == 0
    assert "taken" not in page.title().split()
    page.goto(desk.url)
    expect(page.locator(f"#{bad_day} .name")).to_contain_text("<b>with markup</b>")
    expect(page.locator(f"#{bad_day} b")).to_have_count(0)


def test_texts_of_an_enemy_are_shown_as_text(page: Any, sheet: tuple[str, dict[str, str]]) -> None:
    url, groups = sheet
    group = f"/groups/{groups['hostile']}"
    shown = ""
    for path in (
        group,
        f"{group}?show=failed",
        "/?text=onerror",
        "/failures",
        "/usage",
        f"/submit?from={group[8:]}",
    ):
        page.goto(f"{url}{path}")
        expect(page.locator("main")).to_be_visible()
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        # The form shows what it submits again, unchanged.
        shown += "" if path.startswith("/submit") else page.content()
        assert page.evaluate("[typeof taken, Object.keys(Object.prototype).length]") == [
            "undefined",
            0,
        ]
    page.goto(f"{url}{group}")
    page.locator(".picture").first.click()
    page.locator("#viewer-about").click()
    for number in range(1, 4 * len(HOSTILE) + 1):
        expect(page.locator("#viewer-title")).to_contain_text(f"{number}/")
        shown += page.locator("#viewer-title").inner_text()
        page.keyboard.press("ArrowRight")
    assert page.evaluate("[typeof taken, Object.keys(Object.prototype).length]") == ["undefined", 0]
    # No text changes its direction, which would show a file with another extension.
    assert "safe\ufffdgnp.exe" in shown
    assert not set("\u202e\u2066") & set(shown)


def test_nothing_is_loaded_from_elsewhere_and_nothing_inline_runs(
    desk: Desk, page: Any, bad_day: str
) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for path in ("/", f"/groups/{bad_day}", "/backends", "/submit"):
        answer = page.goto(f"{desk.url}{path}")
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'self'" in policy
    page.emulate_media(color_scheme="dark")
    page.get_by_role("link", name="API", exact=True).click()
    expect(page.locator(".opblock-tag").first).to_be_visible()
    expect(page.locator("html.dark-mode")).to_have_count(1)
    assert faults(page) == []
    for tag in ("Groups", "Backends"):  # All methods, and parameters in the path and the query.
        page.locator(".opblock-tag", has_text=tag).first.click()
    page.locator(".opblock-summary-get").first.click()
    expect(page.locator(".parameter__in").first).to_be_visible()
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function("() => !document.getAnimations().length")
        assert [one for one in faults(page) if one.startswith("color-contrast")] == []
    assert [url for url in asked if not url.startswith((desk.url, "blob:", "data:"))] == []


def test_a_star_is_seen_in_another_browser_without_a_reload(
    desk: Desk, browser: Any, page: Any, bad_day: str
) -> None:
    other = browser.new_context()
    try:
        elsewhere = other.new_page()
        for one in (page, elsewhere):
            one.goto(f"{desk.url}/groups/{bad_day}")
            expect(one.locator("#line-live")).to_have_text("live")
            one.locator("#group-menu summary").click()
        star = page.get_by_role("button", name="Star job 3")
        seen = elsewhere.get_by_role("button", name="Star job 3")
        star.click()
        expect(seen).to_have_attribute("aria-pressed", "true")
        expect(elsewhere.get_by_role("link", name="Download 1 starred")).to_be_visible()
        seen.click()
        expect(star).to_have_attribute("aria-pressed", "false")
        expect(page.get_by_role("link", name="Download 1 starred")).to_have_count(0)
    finally:
        other.close()


TOKEN = "correct-horse-battery-staple"


def test_a_phone_signs_in_and_sees_live_groups(browser: Any, tmp_path: Path) -> None:
    served = Served(tmp_path, environment={"DIRECTOR_TOKEN": TOKEN})
    context = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True)
    try:
        page = context.new_page()
        page.goto(f"{served.url}/backends?x=1")
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_url("**/backends?x=1")
        expect(page.locator("#line-live")).to_have_text("live")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        context.clear_cookies()
        page.get_by_role("button", name="Find on this machine").click()
        page.wait_for_url("**/sign-in?next=*")
    finally:
        context.close()
        served.stop()
