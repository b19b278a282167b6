"""A group on its page: followed to its images, retried and moved."""

import re
from collections.abc import Iterator
from typing import Any

from playwright.sync_api import expect

from tests.browser.desk import SHIFTS, Desk, bring_workflow, cards, submit, wait_loaded
from tests.browser.test_soundness import sound


def failed_group(desk: Desk, *failing: int, count: int = 3) -> str:
    # A fault applies to the next prompt: what other tests left running must be over.
    for state in ("pending", "running"):
        for left in desk.http.get(f"{desk.url}/api/job-groups?status={state}").json()["results"]:
            desk.until_ended(left["job_group_id"])
    for index in failing:
        desk.order(index, name="node_error", message="CUDA out of memory", count=1)
    group = desk.submit(count, metadata={"name": "Retried"})
    status = desk.until_ended(group)
    assert status["failed_count"] == len(failing), status
    return group


def test_all_that_failed_is_rendered_again_on_the_page_that_was_open(desk: Desk, page: Any) -> None:
    group = failed_group(desk, 0, 1)
    page.goto(f"{desk.url}/groups/{group}")
    expect(cards(page, "failed")).to_have_count(2)
    page.get_by_role("button", name="Retry 2 failed …").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Retry 2 jobs?")
    expect(dialog).to_contain_text("The completed job stays")
    plan, names = dialog.get_by_role("listitem"), list(names_of(desk))
    # Out of memory: another backend may suit them better.
    expect(plan).to_have_text(
        [
            f"#{number}: a backend that suits them better than {name}, or {name}"
            for number, name in ((1, names[0]), (2, names[1]))
        ]
    )
    where = dialog.get_by_label("Backend")
    where.select_option("The same backend (that of each job)")
    expect(plan).to_have_text([f"#1: {names[0]}", f"#2: {names[1]}"])
    where.select_option(f"backend:{desk.backend_ids()[3]}")
    expect(plan).to_have_text([f"#1, #2: {names[3]}"])
    sound(page)
    dialog.get_by_role("button", name="Retry 2 jobs").click()
    expect(page.locator("#toast")).to_contain_text("2 jobs are queued again")
    # The next run lives on the same socket: cards, previews, the head and the title.
    expect(cards(page, "completed")).to_have_count(3)
    expect(page.locator("#head")).to_contain_text("1 completed, 2 completed on the second attempt")
    expect(page.locator("#head")).to_contain_text("run 2")
    expect(page.locator("#head")).not_to_contain_text("failed")
    expect(page.get_by_role("button", name=re.compile("^Retry"))).to_have_count(0)
    # The button that had the focus is gone, and the next key begins in the content.
    expect(page.locator("#main")).to_be_focused()
    assert page.title().startswith("3/3 · Retried")
    status = desk.status(group)
    assert (status["status"], status["run"]) == ("completed", 2)
    assert {one["backend_id"] for one in status["child_jobs"][:2]} == {desk.backend_ids()[3]}


def test_the_plan_of_a_retry_has_the_policy_of_the_group_and_the_states_of_backends(
    desk: Desk, page: Any
) -> None:
    for index in (0, 1):
        desk.order(index, name="node_error", message="bad value", count=1)
    group = desk.submit(3, retry_elsewhere=True)
    desk.until_ended(group)
    first, second = desk.backend_ids()[:2]
    desk.http.post(f"{desk.url}/api/backends/{second}/pause")
    names = list(names_of(desk))
    page.goto(f"{desk.url}/groups/{group}")
    page.get_by_role("button", name="Retry 2 failed …").click()
    dialog = page.get_by_role("dialog")
    plan, where = dialog.get_by_role("listitem"), dialog.get_by_label("Backend")
    other = "another backend of the group that works, or"
    planned = [f"#1: {other} {names[0]}", f"#2: {other} {names[1]} (paused)"]
    expect(plan).to_have_text(planned)
    where.select_option("The same backend (that of each job)")
    expect(plan).to_have_text([f"#1: {names[0]}", f"#2: {names[1]} (paused)"])
    where.select_option("As suits each job")
    dialog.get_by_role("button", name="Retry 2 jobs").click()
    expect(page.locator("#toast")).to_contain_text("2 on other backends")
    jobs = desk.until_ended(group)["child_jobs"]
    assert jobs[0]["backend_id"] != first
    assert jobs[1]["backend_id"] != second


def names_of(desk: Desk) -> Iterator[str]:
    rows = desk.http.get(f"{desk.url}/api/backends").json()["backends"]
    names = {row["backend_id"]: row["name"] for row in rows}
    yield from (names[one] for one in desk.backend_ids())


def test_a_card_says_of_each_attempt_where_it_was_and_why_it_ended(desk: Desk, page: Any) -> None:
    group = failed_group(desk, 0, count=1)
    page.goto(f"{desk.url}/groups/{group}")
    card = page.locator(".card")
    card.get_by_label("More about job 1").click()
    expect(card.get_by_text("1 attempt")).to_be_visible()
    tried = card.locator(".tries li")
    expect(tried).to_contain_text("raised an error: CUDA out of memory")
    expect(tried.locator(".meaning")).to_contain_text("ran out of memory")
    card.get_by_role("button", name="Retry", exact=True).click()
    expect(card.get_by_text("Completed on the second attempt")).to_be_visible()
    # What a person has unfolded stays so over the runs.
    expect(tried).to_have_count(2)
    expect(tried.nth(0)).to_be_visible()
    expect(tried.nth(0)).to_contain_text("run 1, on")
    expect(tried.nth(1)).to_contain_text("run 2, on")
    expect(tried.nth(1)).to_contain_text("succeeded")
    expect(card.locator(".picture img")).to_have_count(1)


def test_where_its_backend_takes_nothing_others_are_offered(desk: Desk, page: Any) -> None:
    # No failure after which it goes elsewhere anyway.
    for index in (0, 1):
        desk.order(index, name="node_error", message="bad value", count=1)
    group = desk.submit(2)
    desk.until_ended(group)
    home, away = desk.backend_ids()[0], f"{next(names_of(desk))}: It is disabled"
    desk.http.patch(f"{desk.url}/api/backends/{home}", json={"enabled": False})
    page.goto(f"{desk.url}/groups/{group}")
    dialog = page.get_by_role("dialog")
    # Of all failed jobs only the first belongs to that backend.
    page.get_by_role("button", name="Retry 2 failed …").click()
    expect(dialog.get_by_role("listitem").first).to_contain_text("(disabled)")
    dialog.get_by_role("button", name="Retry 2 jobs").click()
    expect(dialog).to_contain_text("Failed jobs belong to a backend that takes no jobs now.")
    expect(dialog).to_contain_text("Failed jobs of other backends may change their backend, too.")
    dialog.get_by_role("button", name="Cancel").click()
    card = page.locator(".card").first
    retry = card.get_by_role("button", name="Retry", exact=True)
    retry.click()
    expect(dialog).to_contain_text("Run it on another backend?")
    expect(dialog).to_contain_text(away)
    dialog.get_by_role("button", name="Cancel").click()
    assert desk.status(group)["run"] == 1
    card.get_by_role("button", name="Retry on …").click()
    expect(dialog.get_by_label("Backend")).to_have_value("where:other")
    dialog.get_by_role("button", name="Cancel").click()
    retry.click()
    dialog.get_by_role("button", name="Use another backend").click()
    expect(page.locator("#toast")).to_contain_text("1 on another backend")
    expect(cards(page, "completed")).to_have_count(1)
    assert desk.status(group)["child_jobs"][0]["backend_id"] != home
    expect(card.locator(".machine")).not_to_have_attribute("title", home)


def test_a_person_says_where_a_failed_job_is_rendered_while_its_group_runs(
    desk: Desk, page: Any
) -> None:
    first, second, third = desk.backend_ids()[:3]
    desk.http.post(f"{desk.url}/api/backends/{third}/pause", json={})
    desk.order(0, name="node_error", message="CUDA out of memory", count=1)
    group = desk.submit(3)
    page.goto(f"{desk.url}/groups/{group}")
    card = cards(page, "failed")
    job = card.get_attribute("id")
    card.get_by_role("button", name="Retry on …").click()
    dialog = page.get_by_role("dialog")
    where = dialog.get_by_label("Backend")
    # Another backend is preselected after out of memory.
    expect(where).to_have_value("where:other")
    where.select_option(f"backend:{second}")
    dialog.get_by_role("button", name="Retry the job").click()
    expect(page.locator("#toast")).to_contain_text("1 job is queued again, 1 on another backend")
    expect(page.locator(f"#{job}.s-completed")).to_have_count(1)
    # What waits for the paused backend is moved.
    waiting = cards(page, "queued")
    moved = waiting.get_attribute("id")
    waiting.get_by_role("button", name="Move …").click()
    expect(where.locator("option")).not_to_have_text(["Another backend that works"])
    # One that works is preselected.
    expect(where.locator("option:checked")).to_have_text(re.compile("online|busy"))
    where.select_option(f"backend:{first}")
    dialog.get_by_role("button", name="Move the job").click()
    expect(page.locator("#toast")).to_contain_text(f"is queued for {first.replace('_', ':')} now")
    expect(page.locator(f"#{moved}.s-completed")).to_have_count(1)
    status = desk.until_ended(group)
    assert (status["status"], status["run"]) == ("completed", 1)
    places = {one["job_id"]: one["backend_id"] for one in status["child_jobs"]}
    assert (places[job], places[moved]) == (second, first)


def test_a_page_that_is_behind_shows_what_somebody_else_did(desk: Desk, page: Any) -> None:
    group = failed_group(desk, 0, count=1)
    desk.order(0, name="node_error", message="CUDA out of memory", count=1)
    desk.http.post(f"{desk.url}/api/job-groups/{group}/retry")
    assert desk.until_ended(group)["run"] == 2
    page.goto(f"{desk.url}/groups/{group}")
    page.evaluate("document.querySelector('[data-act=retry-job]').dataset.run = '1'")
    page.locator(".card").get_by_role("button", name="Retry", exact=True).click()
    expect(page.locator("#toast")).to_contain_text("retried meanwhile")
    assert desk.status(group)["run"] == 2
    # Asked for again meanwhile, it says the run as it is.
    page.locator('[data-act="retry-job"][data-run="2"]').click()
    expect(cards(page, "completed")).to_have_count(1)


def test_a_submitted_workflow_is_watched_to_its_pictures(desk: Desk, page: Any) -> None:
    page.goto(f"{desk.url}/submit")
    bring_workflow(page)
    page.locator("#count").fill("3")
    page.locator("#more > summary").click()
    page.get_by_label("Name", exact=True).fill("Watched")
    desk.slow()
    submit(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("Watched")
    preview = page.locator(".preview:visible").first
    preview.wait_for()
    assert preview.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    assert (
        preview.bounding_box() == page.locator(".stage:has(.preview:visible)").first.bounding_box()
    )
    desk.withdraw()
    expect(cards(page, "completed")).to_have_count(3)
    for index in range(3):
        picture = page.locator(".picture img").nth(index)
        picture.scroll_into_view_if_needed()
        wait_loaded(page, picture)
    assert page.title().startswith("3/3 · Watched")
    assert "favicon-completed" in str(page.locator("#favicon").get_attribute("href"))
    # The pictures come first, after the bar.
    for width, height, most in ((1280, 800, 200), (390, 844, 300)):
        page.set_viewport_size({"width": width, "height": height})
        assert page.locator("#head .bar").bounding_box()["y"] < 100
        assert page.locator("#cards").bounding_box()["y"] <= most


def test_a_card_is_its_picture_and_one_line(desk: Desk, browser: Any, page: Any) -> None:
    desk.order(0, name="node_error", message="CUDA out of memory", count=1)
    group = desk.submit(3, parameters={"width": 64, "height": 64, "batch_size": 10})
    desk.until_ended(group)
    url = f"{desk.url}/groups/{group}"
    page.goto(url)
    one_line = """cards => cards.map((card) => card.offsetHeight - card.querySelector(".stage").offsetHeight)"""
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 844})
        assert set(page.locator(".card").evaluate_all(one_line)) == {38}  # 36 pixels and the border
    # The reason of a failure is text; a status is a word only where it is not "completed".
    expect(cards(page, "failed")).to_contain_text("CUDA out of memory")
    expect(cards(page, "failed").locator(".card-line")).to_contain_text("Failed")
    card = cards(page, "completed").first
    expect(card).not_to_contain_text("Completed")
    expect(card.locator(".count")).to_have_text("+9")
    # The viewer has all ten.
    card.locator(".picture").click()
    expect(page.locator("#viewer-title")).to_contain_text("1/20")
    page.keyboard.press("ArrowRight")
    wait_loaded(page, page.locator("#viewer-image"), "=== 64")
    wait_loaded(page, page.locator("#viewer-strip img").nth(1))
    page.keyboard.press("Escape")
    expect(card.locator(".picture")).to_be_focused()
    # The actions come with the focus and with the pointer; the menu has the seed.
    more = card.locator(".card-menu > summary")
    retry = page.get_by_role("button", name="Retry", exact=True)
    expect(more).to_have_css("opacity", "1")
    expect(retry).to_have_css("opacity", "0")
    retry.hover()
    expect(retry).to_have_css("opacity", "1")
    seed = str(desk.status(group)["child_jobs"][1]["seed"])
    expect(card.get_by_role("button", name=seed)).to_be_hidden()
    more.press("Enter")
    expect(card.get_by_role("button", name=seed)).to_be_visible()
    expect(card.get_by_role("link", name="Download", exact=False)).to_have_count(10)
    sound(page)
    # A touch screen has no pointer that hovers: the menu shows them.
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True
    )
    try:
        phone = context.new_page()
        phone.goto(url)
        retry = phone.get_by_role("button", name="Retry", exact=True)
        expect(retry).to_be_hidden()
        cards(phone, "failed").locator(".card-menu > summary").tap()
        # What the menu shows ends above the actions, at each size of the cards.
        lines = """over => over.getBoundingClientRect().top + over.clientHeight <= Math.min(
            ...[...over.closest(".acts").querySelectorAll(":scope > button, summary")]
                .map((action) => action.getBoundingClientRect().top)) && over.clientHeight > 80"""
        for size in "0123":
            phone.locator("#size").fill(size)
            assert cards(phone, "failed").locator(".over").evaluate(lines), size
        retry.tap()
        expect(cards(phone, "completed")).to_have_count(3)
    finally:
        context.close()


def test_progress_moves_on_the_page_without_asking_again(desk: Desk, page: Any) -> None:
    desk.slow(6)
    desk.order(0, name="stuck", step=15)  # until the page has shown its progress
    page.goto(f"{desk.url}/groups/{desk.submit(1)}")
    has_come_to = "least => document.querySelector('progress.thin')?.value > least"
    page.wait_for_function(has_come_to, arg=10)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_function(has_come_to, arg=40)
    # A backend that changed meanwhile is a reason to ask once; progress comes four times a second.
    assert len([url for url in asked if "/parts/cards" in url]) <= 1


def test_a_new_group_comes_into_the_list_and_moves_there(desk: Desk, page: Any) -> None:
    page.goto(desk.url)
    expect(page.locator("#line-live")).to_have_text("live")
    group = desk.submit(2, metadata={"name": "Came in"})
    row = page.locator(f"#{group}")
    expect(row).to_contain_text("Came in")
    expect(row).to_contain_text("2/2 completed")
    expect(row.locator(".thumb")).to_have_count(2)


def test_the_page_says_that_the_director_is_away_and_comes_back_by_itself(
    desk: Desk, page: Any
) -> None:
    desk.stick()
    group = desk.submit(4)
    page.goto(f"{desk.url}/groups/{group}")
    cards(page, "running").first.wait_for()
    desk.served.kill()
    expect(page.locator("#away")).to_contain_text("The Director does not answer")
    page.locator("#group-menu summary").click()
    page.get_by_role("button", name="Start next").click()
    # The answer of a change that was made may be lost, too.
    expect(page.locator("#toast")).to_contain_text("It may have made the change")
    desk.served.start()
    expect(page.locator("#away")).to_be_hidden()
    desk.withdraw()
    desk.until_ended(group)
    expect(cards(page, "completed")).to_have_count(4)
    expect(page.locator("#line-runner")).to_have_text("runner ok")


def test_nothing_moves_on_the_page_while_eight_jobs_run(desk: Desk, page: Any) -> None:
    part, every = page, [page.context.new_page() for _ in range(4)]
    pages, lists = every[::2], every[1::2]
    for page, width in zip(every, (1440, 1440, 390, 390), strict=True):
        page.set_viewport_size({"width": width, "height": 900})
        page.add_init_script(SHIFTS)
    desk.stick()  # All pages are open before the first job ends.
    for index in range(3):
        desk.order(index, name="node_error", message="CUDA out of memory " * 40, after=1, count=1)
    group = desk.submit(8)
    part.goto(f"{desk.url}/groups/{group}?show=running")
    for page, groups in zip(pages, lists, strict=True):
        page.goto(f"{desk.url}/groups/{group}")
        groups.goto(desk.url)
    expect(part.locator(".card.s-running").first).to_be_visible()
    desk.withdraw("stuck")
    assert desk.until_ended(group)["failed_count"] == 3
    # A filter stays while jobs run.
    expect(part.locator("#cards")).to_contain_text("No job runs now.")
    part.get_by_role("link", name="Failed 3").click()
    expect(part.locator(".card")).to_have_count(3)
    for page in pages:
        expect(page.get_by_role("button", name="Retry 3 failed …")).to_be_visible()
        expect(cards(page, "completed")).to_have_count(5)
        heights = page.locator(".card").evaluate_all("cards => cards.map(one => one.offsetHeight)")
        assert len(set(heights)) == 1
    for groups in lists:
        expect(groups.locator(f"#{group}")).to_contain_text("5/8 completed")
    for page in every:
        assert page.evaluate("window.shifted || 0") <= 0.01, page.evaluate(
            "window.moves.join('\\n')"
        )
    # A larger card has a sharper thumbnail, also on the next page.
    page = pages[0]
    page.get_by_label("Size of the pictures").press("End")
    page.reload()
    expect(page.get_by_label("Size of the pictures")).to_have_attribute("aria-valuetext", "XL")
    picture = page.locator(".picture img").first
    wait_loaded(page, picture)
    assert "w=1280" in picture.evaluate("image => image.currentSrc")
    assert page.evaluate("window.shifted || 0") <= 0.01


def test_group_is_renamed_archived_and_deleted_on_its_page(desk: Desk, page: Any) -> None:
    desk.stick()
    group = desk.submit(2, metadata={"scene": "shot_7"})
    page.goto(f"{desk.url}/groups/{group}")
    title = page.get_by_role("heading", level=1)
    expect(title).to_have_text("shot_7")
    page.locator(".title").get_by_role("button", name="Rename this group").press("Enter")
    page.keyboard.type("Owl, second take")
    # Events of its jobs do not end the edit.
    desk.withdraw()
    desk.until_ended(group)
    expect(page.locator("#head")).to_have_attribute("data-open", "no")
    page.keyboard.press("Enter")
    expect(title).to_have_text("Owl, second take")
    expect(page.get_by_role("button", name="Rename this group")).to_be_focused()
    more = page.locator("#group-menu summary")
    more.click()
    page.get_by_role("button", name="Archive", exact=True).click()
    expect(page.locator(".facts")).to_contain_text("Archived")
    sound(page)
    more.press("Enter")
    page.get_by_role("button", name="Delete …").click()
    expect(page.get_by_role("dialog")).to_contain_text("2 jobs and 2 stored files")
    page.get_by_role("button", name="Delete the group").click()
    page.wait_for_url(f"{desk.url}/")
    assert desk.http.get(f"{desk.url}/api/job-groups/{group}").status_code == 404


def test_times_of_day_are_those_of_the_person_who_looks(desk: Desk, browser: Any) -> None:
    context = browser.new_context(timezone_id="Asia/Tokyo")
    page = context.new_page()
    first = desk.backend_ids()[0]
    try:
        desk.http.post(f"{desk.url}/api/backends/{first}/pause", json={})
        group = desk.submit(1)
        reason = desk.status(group)["child_jobs"][0]["waiting_reason"]
        hour, rest = re.findall(r"(\d\d):(\d\d:\d\d) UTC", reason)[0]
        since = f"{(int(hour) + 9) % 24:02}:{rest}"
        page.goto(f"{desk.url}/groups/{group}")
        hint = page.locator(".card .hint")
        name = first.replace("_", ":")
        expect(hint).to_contain_text(f"{name} is paused since {since}. ")
        # Also where the card was asked for anew.
        desk.http.post(f"{desk.url}/api/backends/{first}/drain", json={})
        expect(hint).to_contain_text("is being drained since")
        expect(hint).not_to_contain_text("UTC")
    finally:
        context.close()
