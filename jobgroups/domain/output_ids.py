"""The UUID of an output in the Comfy API v2: made of its job and its number, so that no table is
needed.
"""

import uuid
from typing import Final

#: Version 8 (RFC 9562) and our marker bits, around the 48 bits of the job and the 32 bits of the
#: number.
_MARKER: Final = 0x8D12 << 64 | 0xB6EC70A5 << 32


def output_uuid(job_id: str, number: int) -> str:
    """Return the UUID of the file with a number (of the API) of the job ``j_<12 hexadecimal
    digits>``.
    """
    return str(uuid.UUID(int=int(job_id.removeprefix("j_"), 16) << 80 | _MARKER | number))


def parse_output_uuid(text: str) -> tuple[str, int] | None:
    """Return the job's id and the number in a UUID of :func:`output_uuid`; None for any other text."""
    try:
        value = uuid.UUID(text).int
    except ValueError:
        return None
    output = f"j_{value >> 80:012x}", value & 0xFFFFFFFF
    return output if output_uuid(*output) == text else None
