import asyncio
from pathlib import Path

import pytest

from backends.simulator.audit_log import AuditLog, read_audit_log, redact_extra_data, unfinished


def test_servers_share_a_file_that_has_each_entry_at_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "audit.jsonl"
    first = AuditLog("gpu-1", path)
    first.write("accepted", prompt_id="p")
    second = AuditLog("gpu-2", path)
    assert second.entries == []
    second.write("accepted", prompt_id="q")
    found = [(entry["backend"], entry["prompt_id"]) for entry in read_audit_log(path)]
    assert found == [("gpu-1", "p"), ("gpu-2", "q")]
    first.close()
    second.close()


def test_next_start_records_the_lost_prompts_of_a_killed_server(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    killed = AuditLog("gpu-1", path)
    for prompt_id in ("done", "running", "pending"):
        killed.write("accepted", prompt_id=prompt_id, client_id="c")
    killed.started("done")
    killed.write("ended", prompt_id="done", outcome="success")
    killed.started("running")

    again = AuditLog("gpu-1", path)

    lost = [entry["prompt_id"] for entry in again.entries if entry["kind"] == "lost"]
    assert lost == ["running", "pending"]
    again.started("running")
    assert again.entries[-1]["execution"] == 2
    killed.close()
    again.close()


def test_line_cut_off_by_a_full_disk_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text('{"kind": "accepted", "prompt_id": "p"}\n{"kind": "acce')
    assert [entry["prompt_id"] for entry in read_audit_log(path)] == ["p"]


def test_same_prompt_id_twice_is_unfinished_until_both_ended() -> None:
    accepted = {"kind": "accepted", "prompt_id": "p"}
    ended = {"kind": "ended", "prompt_id": "p"}
    assert len(unfinished([accepted, accepted, ended])) == 1
    assert unfinished([accepted, ended, accepted, ended]) == []


def test_marks_keep_what_identifies_and_drop_the_workflow() -> None:
    assert redact_extra_data({"job": "j", "extra_pnginfo": {"workflow": {}}}) == {"job": "j"}
    assert redact_extra_data({"job": "x" * 10_000}).keys() == {"truncated"}


async def test_wait_for_finds_an_earlier_or_later_entry_and_times_out_with_the_last() -> None:
    audit_log = AuditLog("gpu-1")
    audit_log.write("started", prompt_id="a")
    assert (await audit_log.wait_for("started", prompt_id="a"))["prompt_id"] == "a"
    with pytest.raises(TimeoutError, match=r"no 'ended' .*last seen: \[\('started', 'a'\)\]"):
        await audit_log.wait_for("ended", timeout=0.01)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(audit_log.wait_for("ended", prompt_id="a", outcome="success"))
        await asyncio.sleep(0)
        audit_log.write("ended", prompt_id="b", outcome="success")
        audit_log.write("ended", prompt_id="a", outcome="success")
    assert waiting.result()["prompt_id"] == "a"
