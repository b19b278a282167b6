"""Which backend is slow, and which is flaky, beside the others."""

from jobgroups.domain.figures import Figures, Ran, figures, merged


def test_slow_backend_takes_twice_the_median_of_the_others_for_the_same_workflows() -> None:
    ran = [
        Ran("a", "portrait", 10, 100.0),
        Ran("b", "portrait", 10, 120.0),
        Ran("c", "portrait", 4, 92.0),
        # Another workflow takes longer everywhere.
        Ran("a", "video", 2, 1000.0),
        Ran("b", "video", 1, 480.0),
    ]
    found = figures({}, {}, ran)
    assert {name for name, row in found.items() if row.slow} == {"c"}
    assert (found["c"].seconds_per_job, found["c"].relative_seconds) == (23.0, 2.09)
    assert found["a"].seconds_per_job == 91.7
    assert found["a"].relative_seconds == round(1100 / (10 * 17.5 + 2 * 480), 2)


def test_backend_without_others_or_with_few_jobs_is_not_slow() -> None:
    found = figures(
        {}, {}, [Ran("a", "x", 2, 400.0), Ran("b", "x", 9, 90.0), Ran("b", "y", 9, 1.0)]
    )
    assert (found["a"].relative_seconds, found["a"].slow) == (20.0, False)
    alone = figures({}, {}, [Ran("a", "x", 9, 400.0)])["a"]
    assert (alone.seconds_per_job, alone.relative_seconds, alone.slow) == (44.4, None, False)


def test_flaky_backend_fails_more_often_than_the_others() -> None:
    completed = {"a": 100, "b": 97, "c": 20, "d": 1}
    found = figures(completed, {"a": 1, "b": 3, "c": 9, "d": 2}, [])
    assert {name for name, row in found.items() if row.flaky} == {"c"}
    assert (found["c"].completed_day, found["c"].failed_day) == (20, 9)
    # A bad workflow fails on all of them.
    everywhere = figures({"a": 10, "b": 10}, {"a": 6, "b": 5}, [])
    assert not any(row.flaky for row in everywhere.values())
    assert figures({"a": 10}, {"a": 3}, [])["a"].flaky
    assert figures({"a": 0}, {"a": 0}, [])["a"] == Figures()


def test_parts_of_a_workflow_are_added() -> None:
    parts = [Ran("a", "x", 1, 2.0), Ran("b", "x", 1, 5.0), Ran("a", "x", 2, 6.0)]
    assert merged(parts) == [Ran("a", "x", 3, 8.0), Ran("b", "x", 1, 5.0)]
