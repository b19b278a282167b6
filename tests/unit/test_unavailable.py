"""What is said where the database cannot store: what a person can mend, and where."""

from __future__ import annotations

import pytest
from django.db import OperationalError

from director.web.errors import exception_handler


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("database or disk is full", b"The disk with the data folder is full"),
        (
            'could not extend file "base/5/1259": No space left on device',
            b"The disk of the database server is full",
        ),
        ("attempt to write a readonly database", b"The data folder cannot be written"),
        ("connection refused", b"The database does not answer"),
    ],
)
def test_whose_disk_is_full_is_said(said: str, told: bytes) -> None:
    answer = exception_handler(OperationalError(said), {})
    assert answer is not None
    assert answer.status_code == 503
    assert told in answer.content
