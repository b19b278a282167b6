"""How a running prompt was to be stopped."""

from typing import NamedTuple


class SentStop(NamedTuple):
    """How a running prompt was to be stopped."""

    left_running: str = ""  #: Why it is left running, as a clause; ``""`` if it is not.
    #: Whether it was stopped by its id while it ran. So the stop may be repeated soon, after
    #: another lookup.
    is_targeted: bool = False
    #: Whether it was cancelled as a job: that can hit no other prompt. So the next one may be sent.
    is_cancel: bool = False
