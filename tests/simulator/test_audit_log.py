"""The audit log, and the start, restart and end of a simulator."""

from pathlib import Path

import aiohttp
import pytest

from backends.simulator import Simulator
from backends.simulator.audit_log import AuditLog, read_audit_log, redact_extra_data, unfinished
from tests.harness.graphs import sampler
from tests.simulator.artist import Artist, artist, soon


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


def test_same_prompt_id_twice_is_unfinished_until_both_ended() -> None:
    accepted = {"kind": "accepted", "prompt_id": "p"}
    ended = {"kind": "ended", "prompt_id": "p"}
    assert len(unfinished([accepted, accepted, ended])) == 1
    assert unfinished([accepted, ended, accepted, ended]) == []


def test_marks_keep_what_identifies_and_drop_the_workflow() -> None:
    assert redact_extra_data({"job": "j", "extra_pnginfo": {"workflow": {}}}) == {"job": "j"}
    assert redact_extra_data({"job": "x" * 10_000}).keys() == {"truncated"}


@pytest.mark.parametrize("moment", ["accepted", "started", "step", "finishing", "ended"])
async def test_restart_at_each_moment_of_a_prompt(moment: str, sim: Simulator, me: Artist) -> None:
    sim.fault("restart", at=moment, down=0.05)
    try:
        await me.post(sampler(), prompt_id="mine")
    except aiohttp.ClientError:
        assert moment == "accepted"
    await sim.wait_for("restarted")
    await soon(lambda: sim.is_up)
    kinds = [e["kind"] for e in sim.audit_log.entries if e.get("prompt_id") == "mine"]
    ended = ["ended"] if moment in {"finishing", "ended"} else []
    lost = ["lost"] if moment != "ended" else []
    started = ["started"] if moment != "accepted" else []
    assert [k for k in kinds if k != "fault"] == ["accepted", *started, *ended, *lost]


async def test_client_id_that_is_no_text_ends_the_process(sim: Simulator, me: Artist) -> None:
    await me.post(sampler(), client_id=["x"])
    await soon(lambda: not sim.is_up)
    assert sim.audit_log.find("crashed") is not None


async def test_faults_ordered_at_the_start_wait_for_their_chance() -> None:
    faults = ["node_error:message=on order,step=1", "foreign_prompt:seconds=0"]
    async with Simulator(faults=faults) as sim:
        ended = await sim.wait_for("ended", client_id="foreign-client", outcome="error")
    assert ended["message"] == "on order"


async def test_audit_log_has_the_lost_prompts_of_a_close(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with Simulator(name="gpu-1", audit_log=path) as sim, artist(sim) as me:
        await me.queue(sampler(steps=1000, delay=1.0), prompt_id="mine")
        await sim.wait_for("started")
    kinds = [entry["kind"] for entry in read_audit_log(path)]
    assert kinds == ["accepted", "started", "lost", "stopped"]
