"""What is done to a farm, and in which order: decided by a seed alone, so that it can be done again."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from jobgroups.domain.states import AttemptState

#: Attempts in these states are in flight.
IN_FLIGHT: Final = (AttemptState.INTENT, AttemptState.UNCERTAIN, AttemptState.ACCEPTED, AttemptState.RUNNING)

#: Kind of strike, to whom it is done, how often it comes in a round, and the killer's method.
KINDS: Final = {
    "kill runner": ("runner", 3, "kill"),
    "kill runner, gone for long": ("runner", 1, "kill"),
    "pause runner": ("runner", 2, "pause"),
    "cut runner off from PostgreSQL": ("runner", 2, "cut_database"),
    "kill web": ("web", 2, "kill"),
    "kill machine": ("machine", 1, "kill"),
    "pause machine": ("machine", 1, "pause"),
    "cut sockets": ("machine", 2, "fault"),
    "half-open": ("machine", 2, "fault"),
    "reset in a POST's answer": ("machine", 3, "fault"),
    "refuse connections": ("machine", 1, "fault"),
    "restart Redis": ("redis", 1, "restart_redis"),
    "restart PostgreSQL": ("postgres", 1, "restart_postgres"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds between two strikes (least, most), and of a paused and a killed runner until it is back."""

    between: tuple[float, float]
    frozen: float  # longer than a lease lives
    gone: float  # another runner takes over


LONG: Final = Pace(between=(0.5, 4.0), frozen=60.0, gone=25.0)
SHORT: Final = Pace(between=(0.1, 1.0), frozen=18.0, gone=12.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """One thing that is done to a target (modulo how many there are), ``pause`` seconds after the last.

    An attempt of the target in ``state`` is waited for. It ``lasts`` so many seconds.
    """

    number: int
    kind: str
    target: int
    state: AttemptState
    pause: float
    lasts: float

    @property
    def victim(self) -> str:
        """To whom it is done: ``runner``, ``web``, ``machine``, ``redis`` or ``postgres``."""
        return KINDS[self.kind][0]

    def __str__(self) -> str:
        return (
            f"{self.number:3} {self.kind} [{self.target}] at {self.state.value}"
            f" after {self.pause:.1f} s for {self.lasts:.1f} s"
        )


def plan(seed: int, strikes: int, pace: Pace) -> list[Strike]:
    """Return what is done: the same for the same arguments."""
    dice = random.Random(seed)
    kinds = _rounds(dice, [kind for kind, (_, often, _) in KINDS.items() for _ in range(often)])
    states = _rounds(dice, list(IN_FLIGHT))
    return [
        Strike(
            number=number,
            kind=(kind := next(kinds)),
            target=dice.randrange(64),
            state=next(states),
            pause=dice.uniform(*pace.between),
            lasts=_lasts(kind, dice, pace),
        )
        for number in range(1, strikes + 1)
    ]


def _rounds(dice: random.Random, of_a_round: list[str]) -> Iterator[str]:
    """Yield rounds without end, each in an order of its own: nothing is left out for long."""
    while True:
        yield from dice.sample(of_a_round, len(of_a_round))


def _lasts(kind: str, dice: random.Random, pace: Pace) -> float:
    if kind == "pause runner":
        return pace.frozen
    if kind == "kill runner, gone for long":
        return pace.gone
    if kind == "pause machine":
        return dice.uniform(3.0, 12.0)
    return dice.uniform(0.0, 4.0)
