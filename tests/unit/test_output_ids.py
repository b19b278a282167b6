import uuid

import pytest
from hypothesis import given, strategies as st

from jobgroups.domain.output_ids import output_uuid, parse_output_uuid

MADE = output_uuid("j_0c1d9a77e3f2", 3)


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**32 - 1))
def test_uuid_of_an_output_names_its_job_and_number(job: int, number: int) -> None:
    made = output_uuid(f"j_{job:012x}", number)
    assert parse_output_uuid(made) == (f"j_{job:012x}", number)
    assert (uuid.UUID(made).version, uuid.UUID(made).variant) == (8, uuid.RFC_4122)


@pytest.mark.parametrize(
    "text", ["jg_0c1d9a77e3f2", "9f8a1c0d-2b3e-4f56-8a7b-1c2d3e4f5a6b", MADE.upper(), f"{{{MADE}}}"]
)
def test_other_text_is_no_output(text: str) -> None:
    assert parse_output_uuid(text) is None
