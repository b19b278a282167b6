"""The grid of a sweep while it runs, and the comparison of its pictures."""

from typing import Any

from playwright.sync_api import expect

from tests.browser.desk import SHIFTS, Desk, wait_loaded

_TRANSFORM = "images => images.map(image => image.style.transform)"


def sweep(desk: Desk, **fields: Any) -> str:
    axes = [
        {"input": "3.cfg", "values": [5, 7]},
        {"input": "3.steps", "values": [4, 6]},
        {"input": "seed", "values": [1, 2]},
    ]
    return desk.submit_sweep({"axes": axes}, **fields)


def test_pictures_come_into_the_grid_without_a_shift(desk: Desk, page: Any) -> None:
    page.add_init_script(SHIFTS)
    desk.stick()
    group = sweep(desk)
    page.goto(f"{desk.url}/groups/{group}?axis3=1")
    cells = page.locator(".cell")
    expect(cells).to_have_count(4)
    expect(page.locator(".cell .picture img")).to_have_count(0)
    desk.withdraw()
    expect(page.locator(".cell .picture img")).to_have_count(4)
    assert page.evaluate("window.shifted || 0") <= 0.02
    expect(page.get_by_role("columnheader")).to_have_text(["steps ↓", "cfg 5", "cfg 7"])
    expect(page.get_by_role("rowheader")).to_have_text(["4", "6"])
    # The pictures come first.
    for width, height, most in ((1280, 800, 200), (390, 844, 300)):
        page.set_viewport_size({"width": width, "height": height})
        assert page.locator(".stage").first.bounding_box()["y"] <= most
    seeds = {
        one["job_id"]: (one["variation"], one["seed"]) for one in desk.status(group)["child_jobs"]
    }
    shown = [seeds[str(cell.get_attribute("id"))] for cell in cells.all()]
    assert shown == [({"3.cfg": cfg, "3.steps": steps}, 2) for steps in (4, 6) for cfg in (5, 7)]
    # Another seed is shown in place; its address and the one of a job show the same.
    page.get_by_role("combobox", name="seed").select_option("1")
    expect(page).to_have_url(f"{desk.url}/groups/{group}?axis3=0")
    expect(page.get_by_role("group", name="steps 4 · seed 1")).to_have_count(2)
    last = next(job for job, (_, seed) in seeds.items() if seed == 2)
    page.goto(f"{desk.url}/groups/{group}#{last}")
    expect(page.locator(f"#{last}.cell")).to_be_in_viewport()
    page.get_by_role("link", name="Card of job 2").click()
    expect(page.locator(f"#{last}.card .variation")).to_have_text("cfg 5 · steps 4")
    expect(page.locator(".card")).to_have_count(8)


def test_pictures_are_compared_with_one_zoom_and_by_flicker(desk: Desk, page: Any) -> None:
    group = sweep(desk)
    desk.until_ended(group)
    page.goto(f"{desk.url}/groups/{group}")
    page.get_by_role("button", name="Compare job 1").click()
    # The choice lasts while another seed is shown.
    page.get_by_role("combobox", name="seed").select_option("2")
    page.get_by_role("button", name="Compare job 4").press("Enter")
    page.locator(".picture").last.click()
    page.keyboard.press("c")
    expect(page.locator("#viewer-compare")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    expect(page.locator("#compare-count")).to_have_text("3 pictures chosen")
    page.get_by_role("button", name="Compare", exact=True).click()
    panes = page.locator("#compare .pane")
    expect(page.locator(".pane-label")).to_have_text(
        ["cfg 5 · steps 4 · seed 1", "cfg 5 · steps 6 · seed 2", "cfg 7 · steps 6 · seed 2"]
    )
    images = page.locator(".pane-view img")
    for image in images.all():
        wait_loaded(page, image)
    box = images.first.bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.wheel(0, -500)
    page.keyboard.press("ArrowLeft")
    (first, *others) = images.evaluate_all(_TRANSFORM)
    assert "scale(2.7" in first
    assert others == [first, first]
    page.keyboard.press("0")
    assert set(images.evaluate_all(_TRANSFORM)) == {"translate(0%, 0%) scale(1)"}
    # Side by side all are visible; alternating only one is, and the next one comes by itself.
    visible = page.locator(".pane:not(.behind)")
    expect(visible).to_have_count(3)
    page.keyboard.press("f")
    expect(visible).to_have_count(1)
    expect(visible.locator(".pane-label")).to_have_text("cfg 5 · steps 6 · seed 2")
    page.emulate_media(reduced_motion="reduce")
    expect(page.locator("#compare-play")).to_be_hidden()
    expect(panes.first).not_to_have_class("pane behind")
    page.keyboard.press("Space")
    expect(panes.nth(1)).not_to_have_class("pane behind")
    star = panes.nth(1).get_by_role("button", name="Star this job")
    star.click()
    expect(star).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Star job 4")).to_have_attribute("aria-pressed", "true")
