"""The driver of an attempt performs all that its machine orders, and no more."""

from jobgroups.runner.attempt import machine as m
from jobgroups.runner.attempt.driver import AttemptDriver
from jobgroups.runner.attempt.machine import PHASES


def test_driver_performs_every_output() -> None:
    assert set(AttemptDriver._ANSWERS) == {
        one for rules in PHASES.values() for one in rules.requests
    }
    assert set(AttemptDriver._ORDERS) == {m.WakeAt, *m.Output.__subclasses__()} - {m.Request}
