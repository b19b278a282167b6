"""The shortest possible time of a schedule, which simulations and real processes are measured
against.
"""

from collections.abc import Sequence


def shortest_time(jobs: int, seconds: Sequence[float]) -> float:
    """Return the smallest time in which backends with so many seconds of a job can end all jobs."""
    return sorted(one * number for one in seconds for number in range(1, jobs + 1))[jobs - 1]
