"""Three submitters share three unequal machines."""

from collections import Counter

from jobgroups.models import Attempt
from tests.harness.farm import Farm, in_thread


async def test_submitters_share_unequal_machines_and_a_higher_level_is_first(farm: Farm) -> None:
    for name, seconds in (("gpu-1", 0.1), ("gpu-2", 0.2), ("gpu-3", 0.4)):
        await farm.backend(name, seconds=seconds)
    groups = {
        name: await farm.submit("*", count=30, submitter=name) for name in ("anna", "ben", "cleo")
    }
    urgent = await farm.submit("*", count=3, submitter="anna", priority=60)
    await farm.runner()
    for group in (*groups.values(), urgent):
        await farm.finished(group)
    started = Attempt.objects.order_by("started_at").values_list("child__group_id", flat=True)
    order = await in_thread(list)(started)
    assert len(order) == 93
    assert set(order[:3]) == {urgent.id}
    # Shares are in seconds: the submitter whose jobs run at the slow machine starts fewer. First
    # come, first served would leave the third submitter none of the first half.
    counted = Counter(order[3:48])
    assert min(counted[group.id] for group in groups.values()) >= 4, counted
