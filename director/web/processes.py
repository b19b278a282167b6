"""The processes of `serve`, as the one that supervises them reports them to the web."""

import msgspec


class ProcessState(msgspec.Struct, frozen=True):
    """One supervised process: the present one, and how often its predecessors ended unexpectedly."""

    name: str
    pid: int  #: Of the present or last process; 0: it was not started yet.
    is_running: bool
    ends: int = 0  #: Unexpected ends since `serve` was started.
    ended_at: float = 0.0  #: The last one, in seconds since 1970.
    cause: str = ""  #: Of the last one, such as "signal 9".


#: Of this process and its siblings; empty in a process that is not supervised.
states: list[ProcessState] = []
