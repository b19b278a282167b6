"""Shared by tests of the database: a backend with a lease, and retries without a pause."""

import pytest
from pytest_django import Settings

from jobgroups.domain.leases import FencingToken
from tests.harness import factories


@pytest.fixture
def fence() -> FencingToken:
    """Return the lease of gpu-1, which responds."""
    return factories.online()


@pytest.fixture
def no_backoff(settings: Settings) -> None:
    settings.DIRECTOR_RETRY_BACKOFF_SECONDS = 0
