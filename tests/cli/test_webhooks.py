from tests.cli.conftest import Desk


def test_webhooks_are_listed_replayed_and_tested(desk: Desk) -> None:
    assert "no public address" in desk.said(
        "submit", "workflow.json", "--webhook", "http://10.0.0.1/", status=4
    )
    [made] = desk.lines(
        "submit", "workflow.json", "-n", "1", "--webhook", "http://nowhere.invalid/"
    )
    group = made["job_group_id"]
    desk.run("watch", group)
    assert desk.json("show", group)["webhook"]["url"] == "http://nowhere.invalid/"
    first, second = reversed(desk.json("webhooks", "list", "--group", group, "--state", "pending"))
    assert [first["type"], second["type"]] == ["child_completed", "group_complete"]
    assert desk.json("webhooks", "replay", str(first["id"]))[0]["webhook_id"] == first["webhook_id"]
    assert "http://nowhere.invalid/" in desk.out("webhooks", "list")
    assert "Webhook delivery 999999 not found" in desk.said(
        "webhooks", "replay", "999999", status=4
    )
    assert "Not delivered: No connection" in desk.said(
        "webhooks", "test", "http://nowhere.invalid/", status=4
    )
