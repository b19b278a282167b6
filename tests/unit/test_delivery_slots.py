"""The streams of webhooks that a runner delivers at once: hosts that hang leave slots for others."""

from jobgroups.domain.delivery_slots import DeliverySlots

QUICK, SLOW = 0.1, 15.0


def slots(**seconds: float) -> DeliverySlots:
    """Return slots that know the last answer of each host."""
    found = DeliverySlots(slow=3.0)
    for host, took in seconds.items():
        found.note_answer(f"https://{host}/", took)
    return found


def started(found: DeliverySlots, *urls: str) -> list[str]:
    """Start the streams that are chosen, each of a group of its own; return their URLs."""
    chosen = [
        url for _, url in found.choose([(f"jg_{number}", url) for number, url in enumerate(urls)])
    ]
    for url in chosen:
        found.start(url)
    return chosen


def test_url_has_four_streams_at_once_and_a_host_without_a_quick_answer_too() -> None:
    assert started(slots(a=QUICK), *["https://a/1"] * 9) == ["https://a/1"] * 4
    many = [f"https://a/{number}" for number in range(40)]
    assert started(slots(a=QUICK), *many) == many[:32]
    assert started(slots(), *many) == many[:4]
    assert started(slots(a=SLOW), *many, "https://b/") == [*many[:4], "https://b/"]


def test_slow_hosts_leave_slots_for_new_ones_and_both_for_those_that_answer() -> None:
    hosts = [f"h{number}" for number in range(40)]
    found = slots(good=QUICK, **dict.fromkeys(hosts, SLOW))
    assert len(started(found, *(f"https://{host}/" for host in hosts))) == 8
    assert len(started(found, *(f"https://new-{host}/" for host in hosts))) == 16
    assert len(started(found, *(f"https://good/{number}" for number in range(40)))) == 8
    found.end("https://h0/")
    assert started(found, "https://h39/", "https://good/") == ["https://h39/"]


def test_last_answer_of_a_host_decides_and_only_so_many_are_kept() -> None:
    found = slots(a=SLOW)
    urls = [f"https://a/{number}" for number in range(5)]
    found.note_answer("https://A/", QUICK)
    assert found.choose([("jg_1", url) for url in urls]) == [("jg_1", url) for url in urls]
    for number in range(1_000):
        found.note_answer(f"https://h{number}/", QUICK)
    assert len(found.choose([("jg_1", url) for url in urls])) == 4
