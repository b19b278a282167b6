"""``serve`` that kills itself at a named step: ``python -m tests.harness.kill_switch serve --port
0``.

The function that the step is named after is wrapped. Variables:

- ``PLUG_STEP``: ``module:name`` or ``module:Class.name``; empty: nothing is killed.
- ``PLUG_MOMENT``: ``before`` the call, ``uncommitted`` (it has written, and its transaction is
  about to commit), or ``after`` it, when what it has written is committed.
- ``PLUG_CALL``: which call, from 1; one that raises is no step, but for the moment ``before`` it.
- ``PLUG_NOTE``: a file that is written just before the kill.
- ``PLUG_SIGNALS``: instead of one SIGKILL, several signals with blanks between them, each at the
  next such call: the name of a signal, for its parent with ``parent:`` before it. ``PLUG_NOTE``
  gets a line of each with the process that gets it.
- ``PLUG_TIMEOUT``: every child's timeout, in seconds (the API takes none below 30).
"""

import dataclasses
import functools
import importlib
import inspect
import itertools
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

_armed = threading.local()
_PARENT = os.getppid()


def _signals_left() -> list[str]:
    """Return the signals that no process of this ``serve`` has got."""
    note = Path(os.environ["PLUG_NOTE"])
    done = len(note.read_text(encoding="utf-8").splitlines()) if note.exists() else 0
    return os.environ.get("PLUG_SIGNALS", "SIGKILL").split()[done:]


def _die() -> None:
    """Send the next signal, which may leave this process alive."""
    _armed.now = False
    for order in _signals_left()[:1]:
        pid = _PARENT if order.startswith("parent:") else os.getpid()
        if os.getppid() != _PARENT:
            return  # its parent has ended, and it is to end too
        with Path(os.environ["PLUG_NOTE"]).open("a", encoding="utf-8") as note:
            note.write(f"{order} {pid}\n")
        os.kill(pid, signal.Signals[order.removeprefix("parent:")])


def _wrapped(function: Callable[..., Any], moment: str, call: int) -> Callable[..., Any]:
    calls = itertools.count(1)

    def enter() -> bool:
        # Also a later call: what this one was to do may be refused.
        due = next(calls) >= call
        if due and moment == "before":
            _die()
        if due and moment == "uncommitted":
            # Stays set: further calls may share its transaction.
            _armed.now = True
        return due and moment == "after"

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def later(*args: Any, **kwargs: Any) -> Any:
            last = enter()
            result = await function(*args, **kwargs)
            if last:
                _die()
            return result

        return later

    @functools.wraps(function)
    def now(*args: Any, **kwargs: Any) -> Any:
        last = enter()
        try:
            result = function(*args, **kwargs)
        except BaseException:
            _armed.now = False
            raise
        if last:
            _die_once_committed()
        return result

    return now


def _in_writer(service: Callable[..., Any]) -> Callable[..., Any]:
    """Have a service armed in the thread that commits what it writes."""
    from jobgroups.database.threads import write

    return lambda *args, **kwargs: write(functools.partial(service, *args, **kwargs))


def _die_once_committed() -> None:
    """Die now, or when the transaction that the call shares with others is committed."""
    from django.db import transaction

    transaction.on_commit(_die)


def _die_before_commit() -> None:
    """Have the armed thread die when it leaves a transaction whose statements all went well."""
    from django.db.transaction import Atomic

    leave = Atomic.__exit__

    def leaving(self: Any, kind: Any, value: Any, traceback: Any) -> None:
        if kind is None and getattr(_armed, "now", False):
            _die()
        leave(self, kind, value, traceback)

    Atomic.__exit__ = leaving  # type: ignore[method-assign]


def _wire(step: str, moment: str, call: int) -> None:
    module_name, _, path = step.partition(":")
    holder: Any = importlib.import_module(module_name)
    *owners, name = path.split(".")
    for owner in owners:
        holder = getattr(holder, owner)
    function = getattr(holder, name)
    wrapped = _wrapped(function, moment, call)
    if moment == "uncommitted":
        _die_before_commit()
        if hasattr(function, "__wrapped__"):
            wrapped = _in_writer(wrapped)
    setattr(holder, name, wrapped)


def _shorten_timeouts(seconds: float) -> None:
    from jobgroups.runner.attempt.spec import AttemptSpec

    def shortened(make: Callable[..., Any]) -> Callable[..., Any]:
        return lambda row: dataclasses.replace(make(row), timeout_s=seconds)

    AttemptSpec.from_claim = shortened(AttemptSpec.from_claim)  # type: ignore[method-assign]
    AttemptSpec.from_row = shortened(AttemptSpec.from_row)  # type: ignore[method-assign]


def main() -> None:
    """Wire the step, then be ``manage.py``."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "director.settings")
    import django

    django.setup()
    # Once: a process of ``serve`` that has killed itself is started again.
    if os.environ.get("PLUG_STEP") and _signals_left():
        moment, call = os.environ["PLUG_MOMENT"], int(os.environ["PLUG_CALL"])
        _wire(os.environ["PLUG_STEP"], moment, call)
    if os.environ.get("PLUG_TIMEOUT"):
        _shorten_timeouts(float(os.environ["PLUG_TIMEOUT"]))
    from director.__main__ import main as manage
    from director.server import supervise

    supervise.PROGRAM = ("-m", "tests.harness.kill_switch")
    manage()


if __name__ == "__main__":
    main()
