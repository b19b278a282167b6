"""``director mcp`` as an agent uses it: the SDK's client starts the command."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from director.demo.workflow import text_to_image
from tests.cli.conftest import Desk

if TYPE_CHECKING:
    from mcp import Client

NO_GROUP = "jg_000000000000"


def agent(desk: Desk, **variables: str) -> Client:
    from mcp import Client, StdioServerParameters  # each process of the tests would import it

    words, environment = ["-m", "director", "mcp"], desk.environment(**variables)
    return Client(
        StdioServerParameters(command=sys.executable, args=words, cwd=desk.folder, env=environment)
    )


async def answer(
    client: Client, tool: str, on_progress: Callable[..., Any] | None = None, **arguments: Any
) -> Any:
    result = await client.call_tool(tool, arguments, progress_callback=on_progress)
    assert not result.is_error, result.content
    return result.structured_content


async def error(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return str(result.content)


async def test_agent_runs_a_group_and_sees_its_pictures(desk: Desk) -> None:
    reports: list[float] = []

    async def report(progress: float, *_: Any) -> None:
        reports.append(progress)

    async with agent(desk) as client:
        assert (await answer(client, "check_workflow", workflow=text_to_image()))["can_run"] == 3
        made = await answer(
            client,
            "submit",
            workflow="workflow.json",
            count=3,
            name="owl",
            priority=60,
            parameters={"steps": 4},
        )
        assert made["total_count"] == 3
        assert [
            one["priority"] for one in (await answer(client, "list_groups", limit=1))["groups"]
        ] == [60]
        assert "items" in await answer(client, "queue", submitter="cleo")
        ended = await answer(client, "watch", report, group_id=made["job_group_id"], seconds=60)
        assert (ended["status"], ended["title"], ended["finished"], len(ended["jobs"])) == (
            "completed",
            "owl",
            True,
            3,
        )
        assert reports == sorted(set(reports))
        assert reports[-1] == 3
        assert made["job_group_id"] in [
            one["job_group_id"] for one in (await answer(client, "list_groups"))["groups"]
        ]
        outputs = (await answer(client, "search_outputs", kind="image", days=1))["outputs"]
        assert {job["outputs"][0] for job in ended["jobs"]} <= {one["output"] for one in outputs}
        job = ended["jobs"][0]
        [resource] = (await client.read_resource(f"{job['outputs'][0]}?width=160")).contents
        shown = {"group_id": made["job_group_id"], "job_id": job["job_id"], "width": 160}
        [picture] = (await client.call_tool("picture", shown)).content
        assert (picture.data, picture.mime_type) == (resource.blob, resource.mime_type)
        assert Image.open(io.BytesIO(base64.b64decode(resource.blob))).width == 160


async def test_agent_finds_and_retries_failures(desk: Desk) -> None:
    group_id = desk.group("gpu-1", "gpu-2", fails=[1])
    async with agent(desk) as client:
        [job] = (await answer(client, "status", group_id=group_id, only="failed"))["jobs"]
        assert (job["failure_class"], job["outputs"]) == ("out_of_memory", [])
        assert "out_of_memory" in [
            one["failure_class"] for one in (await answer(client, "failures"))["results"]
        ]
        assert (await answer(client, "retry_failed", group_id=group_id))["job_ids"] == [
            job["job_id"]
        ]


async def test_agent_cancels(desk: Desk) -> None:
    sweep = {"axes": [{"input": "cfg", "values": [5, 7]}]}
    async with agent(desk) as client:
        desk.run("backends", "pause", "all")
        group_id = (await answer(client, "submit", workflow=text_to_image(), sweep=sweep))[
            "job_group_id"
        ]
        waiting = await answer(client, "watch", group_id=group_id, seconds=1)
        assert (waiting["finished"], [job["variation"] for job in waiting["jobs"]]) == (
            False,
            [{"cfg": 5}, {"cfg": 7}],
        )
        assert (await answer(client, "cancel", group_id=group_id))["interrupted"] == 2
        assert {one["status"] for one in (await answer(client, "backends"))["backends"]} == {
            "paused"
        }
        desk.run("backends", "resume", "all")


async def test_error_is_the_sentence_of_the_api(desk: Desk) -> None:
    (desk.folder / "prompt.txt").write_text("a red fox", encoding="utf-8")
    async with agent(desk) as client:
        assert f"Job group {NO_GROUP} not found." in await error(
            client, "status", group_id=NO_GROUP
        )
        assert "class_type" in await error(client, "submit", workflow={"1": {}})
        assert "prompt.txt is not JSON" in await error(
            client, "check_workflow", workflow="prompt.txt"
        )
        missing = await error(client, "submit", workflow="none.json")
        assert "none.json cannot be read: No such file or directory." in missing
        assert "Errno" not in missing
        uploaded = await answer(client, "upload_input", path="prompt.txt")
        assert uploaded["name"] == "prompt.txt"
        assert uploaded["reference"]
        assert "less than or equal to 600" in await error(
            client, "watch", group_id=NO_GROUP, seconds=601
        )
        from mcp import MCPError

        with pytest.raises(MCPError, match=f"Job group {NO_GROUP} not found"):
            await client.read_resource(
                f"director://groups/{NO_GROUP}/jobs/j_000000000000/outputs/0"
            )
    async with agent(desk, DIRECTOR_URL="http://127.0.0.1:9") as client:
        assert "No answer from http://127.0.0.1:9" in await error(client, "backends")


def test_command_names_the_missing_package(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", None)
    assert "needs the Python package mcp" in desk.said("mcp", status=2)
