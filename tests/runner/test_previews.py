"""A prompt orders previews if a client watches its group when it is sent."""

import pytest

from tests.harness.farm import Farm

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize(
    ("version", "of_command_line", "ordered"), [("0.33.0", 0.0, "auto"), ("0.33.0", 5.0, None), ("0.3.64", 0.0, None)]
)
async def test_prompts_of_a_watched_group_order_previews(
    farm: Farm, version: str, of_command_line: float, ordered: str | None
) -> None:
    sim = await farm.backend(version=version, preview_fps=of_command_line)
    watched, other = await farm.submit("gpu-1"), await farm.submit("gpu-1")
    await farm.hub.subscribe(watched.id, previews=True)
    await farm.runner()
    for group, expected in ((watched, ordered), (other, None)):
        assert (await farm.finished(group)).status == "completed"
        (attempt,) = await farm.attempts(group)
        extra_data = sim.state.queue.history[attempt.prompt_id]["prompt"][3]
        assert extra_data.get("preview_method") == expected
