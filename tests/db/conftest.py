"""Shared by tests of the database: a backend with a lease, and retries without a pause."""

from __future__ import annotations

import pytest
from pytest_django import Settings

from jobgroups.domain.leases import FencingToken
from tests.harness import factories


@pytest.fixture
def fence() -> FencingToken:
    """Return the lease of gpu-1."""
    factories.backend()
    return factories.lease()


@pytest.fixture
def no_backoff(settings: Settings) -> None:
    """Retry without a pause."""
    settings.DIRECTOR_RETRY_BACKOFF_SECONDS = 0
