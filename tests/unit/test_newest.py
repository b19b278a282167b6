"""Values that are kept: the newest, and each for a while."""

from jobgroups.domain.newest import Newest


def test_only_so_many_values_are_kept_and_a_repeated_one_is_new() -> None:
    kept: Newest[str, int] = Newest(2)
    for number, key in enumerate("abac"):
        kept.put(key, number)
    assert [kept.get(key) for key in "abc"] == [2, None, 3]
    kept.clear()
    assert len(kept) == 0
    assert kept.get("a") is None


def test_value_that_is_older_than_its_time_is_none() -> None:
    kept: Newest[str, int] = Newest(2, seconds=60)
    kept.put("a", 1)
    kept.seconds = 0
    kept.put("b", 2)
    assert [kept.get(key) for key in "ab"] == [1, None]
