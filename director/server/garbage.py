"""How often Python looks for garbage."""

import gc


def collect_rarely() -> None:
    """Make no collection during a start: of what it imports everything stays, and collections take
    80 ms.
    """
    gc.set_threshold(500_000, 20, 50)


def collect_new_objects() -> None:
    """Collect from now on, and skip the objects that exist now: the modules stay loaded.

    A collection before would take 130 ms, and leave the process as large as it was.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
