"""Times of the jobs of this runner, until they are stored: every few seconds, for all backends at once."""

from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.estimates import TimingSample
from jobgroups.services import timings


class TimingBuffer:
    """Collects the samples of all sessions. If the runner ends before they are stored, only precision is lost."""

    def __init__(self, database: DatabaseThreads) -> None:
        self._database = database
        self._samples: list[TimingSample] = []

    def add(self, sample: TimingSample) -> None:
        """Keep a sample until the next :meth:`store`."""
        self._samples.append(sample)

    async def store(self) -> None:
        """Store the samples that were added since the last call."""
        samples, self._samples = self._samples, []
        if samples:
            await self._database.run_with_retry(timings.timings_store, samples)
