"""Exclusions: workflows that a backend refused, or for which its memory did not suffice, until
when. Pure.
"""

import datetime as dt
from enum import StrEnum
from typing import Final

from jobgroups.domain.failures import FailureClass


class ExclusionKind(StrEnum):
    """Why a backend is excluded for a workflow."""

    #: It lacks a node class or a file: excluded from the first refusal. Or it answered 500: from
    #: the second one.
    MISSING = "missing"
    OUT_OF_MEMORY = "out_of_memory"  #: Excluded from the second failure: the first freed memory.


#: How long an exclusion lasts after the last failure.
LIFETIME: Final = {
    ExclusionKind.MISSING: dt.timedelta(hours=1),
    ExclusionKind.OUT_OF_MEMORY: dt.timedelta(hours=24),
}
#: The number of failures from which a backend is excluded.
FAILURES: Final = {ExclusionKind.MISSING: 1, ExclusionKind.OUT_OF_MEMORY: 2}

#: The failure classes from which exclusions are learned.
KIND_OF: Final = {
    FailureClass.NODE_OR_MODEL_MISSING: ExclusionKind.MISSING,
    FailureClass.OUT_OF_MEMORY: ExclusionKind.OUT_OF_MEMORY,
}
#: The failure class of jobs that wait for excluded backends only.
CLASS_OF: Final = {kind: failure for failure, kind in KIND_OF.items()}


def exclusion_reason(kind: ExclusionKind, count: int, sentence: str) -> str:
    sentence = sentence.rstrip(".")
    if kind is ExclusionKind.MISSING:
        return f"Cannot run this workflow: {sentence}."
    return f"Ran out of memory {count} times with this workflow: {sentence}."
