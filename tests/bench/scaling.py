"""``python -m tests.bench.scaling``: what farms of 10 to 10,000 backends need, and where they bend.

Reckoned from the unit costs of ``tests.bench.scaling_units`` and simulated by ``tests.bench.scaling_queues``.
Prints the tables as Markdown; ``--write`` puts them into ``docs/scaling.md``, and a test fails if they are
stale. ``--measure`` measures the unit costs again, in three minutes, and keeps them: ``--write`` is next.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tests.bench.scaling_queues import Call, Load, Seen, simulate
from tests.bench.scaling_units import FILE, MACHINE, SUSTAINED, UNITS, Units, described, store

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "scaling.md"
BACKENDS: Final = (10, 200, 1_000, 10_000)

#: A process is planned to use this share of a core; beyond it what waits grows faster than what is done.
_PLANNED: Final = 0.6
#: Frames of a child as it was measured: in a render of three steps.
_STEPS_MEASURED: Final = 3
_FRAMES_A_STEP: Final = 2
#: PostgreSQL as Debian installs it, less what it keeps for its superuser.
_CONNECTIONS: Final = 97
#: Open files that most systems allow a process that asks for no more.
_FILES: Final = 1_024
#: Files of a runner that are not a backend's.
_FILES_OWN: Final = 60
_POSTGRES_CORES: Final = 8
_DAY: Final = 86_400
_MONTH: Final = 30 * _DAY
_GIB: Final = 2**30
_LARGE_GROUP: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A kind of work, which every backend does without a pause.

    Attributes:
        seconds: that a backend renders a child. ``steps``: of its sampler.
        group: children of a group.
    """

    name: str
    seconds: float
    steps: int
    group: int


WORKS: Final = (
    Work(name="previews", seconds=1.5, steps=8, group=4),
    Work(name="stills", seconds=20, steps=30, group=20),
    Work(name="film frames", seconds=180, steps=50, group=240),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a farm needs.

    Attributes:
        runner_cores: of all runners; ``rounds``: the share of each of their cores that goes into rounds.
    """

    children: float
    rows_a_day: float
    gib_a_month: float
    statements: float
    commits: float
    wal: float
    messages: float
    runner_cores: float
    rounds: float
    runners: int
    webs: int
    web_cores: float
    postgres_cores: float
    redis_cores: float
    connections: float


def round_share(work: Work, backends: float, units: Units = UNITS) -> float:
    """Return the share of a core that each runner's rounds take: each is over all backends of the farm.

    One for every group that is submitted; those that are rung for meanwhile are one more. They take what
    the work leaves at most: then they become rarer, and everything else waits for them.
    """
    load = backends / work.seconds / work.group * _round_s(backends, units)
    return min(load / (1 + load), 1 - _PLANNED)


def work_cores(work: Work, backends: float, units: Units = UNITS) -> float:
    """Return the cores that runners need for their backends, their rounds left out."""
    children = backends / work.seconds
    steps = work.steps - _STEPS_MEASURED
    return (
        backends * units.backend_runner_ms
        + children * units.child_runner_ms
        + children / work.group * units.group_runner_ms
        + children * steps * _FRAMES_A_STEP * units.frame_runner_us / 1e3
        + children * _at_most(work, units.progress_per_s) * units.message_runner_us / 1e3
    ) / 1e3


def _at_most(work: Work, per_second: float) -> float:
    """Return how many of a child's steps are told, or stored, where that is limited."""
    return min(work.steps - _STEPS_MEASURED, per_second * work.seconds)


def _round_s(backends: float, units: Units) -> float:
    return units.round_ms / 1e3 + backends * units.round_us_per_backend / 1e6


def need(work: Work, backends: float, units: Units = UNITS) -> Need:
    """Return what a farm needs whose every backend does this work all the time."""
    children = backends / work.seconds
    groups = children / work.group
    told = children * _at_most(work, units.progress_per_s)
    stored = children * _at_most(work, units.flushes_per_s)
    runners = math.ceil(work_cores(work, backends, units) / _PLANNED)
    rounds = round_share(work, backends, units)
    messages = children * units.child_messages + groups * units.group_messages + told
    web_cores = (
        children * units.child_web_ms
        + groups * units.group_web_ms
        + messages * (units.message_web_us + units.message_watcher_us) / 1e3
    ) / 1e3
    webs = max(1, math.ceil(web_cores / _PLANNED))
    rounds_a_s = rounds / _round_s(backends, units)
    postgres = (
        backends * units.backend_postgres_ms
        + children * units.child_postgres_ms
        + groups * units.group_postgres_ms
        + stored * units.progress_postgres_us / 1e3
        + runners * units.runner_postgres_ms
        + runners * rounds_a_s * backends * units.round_postgres_us_per_backend / 1e3
    ) / 1e3
    stored_a_s = children * units.child_bytes + groups * units.group_bytes
    return Need(
        children=children,
        rows_a_day=(children * units.child_rows + groups * units.group_rows) * _DAY,
        gib_a_month=stored_a_s * _MONTH / _GIB,
        statements=backends * units.backend_statements
        + children * units.child_statements
        + groups * units.group_statements
        + stored
        + runners * units.runner_statements,
        commits=backends * units.backend_commits
        + children * units.child_commits
        + groups * units.group_commits
        + runners * units.flushes_per_s,
        wal=backends * units.backend_wal + children * units.child_wal + groups * units.group_wal,
        messages=messages,
        runner_cores=work_cores(work, backends, units) + runners * (rounds + units.runner_own_ms / 1e3),
        rounds=rounds,
        runners=runners,
        webs=webs,
        web_cores=web_cores,
        postgres_cores=postgres,
        redis_cores=messages * units.message_redis_us / 1e6,
        connections=runners * units.runner_connections + webs * units.web_connections,
    )


# --- the simulation --------------------------------------------------------------------------------


def load_of(work: Work, backends: int, units: Units = UNITS, *, farm: int | None = None) -> Load:
    """Return what one runner has to do for its backends.

    Args:
        work: that they do.
        backends: of this runner.
        units: the unit costs.
        farm: backends of the whole farm: its groups ring for this runner too. None: no group is
            submitted meanwhile.
    """
    calls = ("claim", "accepted", "started", "reported", "ended")
    course = tuple(
        Call(
            python=getattr(units, f"{one}_python_ms") / 1e3,
            postgres=getattr(units, f"{one}_postgres_ms") / 1e3,
            grows=one in ("started", "ended"),
        )
        for one in calls
    )
    frames = (work.steps - _STEPS_MEASURED) * _FRAMES_A_STEP * units.frame_runner_us
    frames += _at_most(work, units.progress_per_s) * units.message_runner_us
    loop = units.child_runner_ms / 1e3 - sum(one.python for one in course)
    return Load(
        backends=backends,
        render_s=work.seconds,
        course=course,
        commit_s=units.commit_wait_ms / 1e3,
        loop_s=max(loop, 0.0) + frames / 1e6,
        idle_s=units.backend_runner_ms / 1e3,
        group=work.group,
        grow_s=units.group_lock_us_per_child / 1e6,
        round_s=0.0 if farm is None else _round_s(farm, units),
        rounds_per_s=0.0 if farm is None else farm / work.seconds / work.group,
        threads=int(units.runner_threads),
        postgres_cores=_POSTGRES_CORES,
    )


def sustained_load(units: Units = UNITS) -> Load:
    """Return the load that was measured too: 200 backends, jobs of 1.5 s, a machine shared with others."""
    work = Work(name="", seconds=1.5, steps=_STEPS_MEASURED, group=200)
    gpus = SUSTAINED["gpus"] / SUSTAINED["completed"]
    return replace(load_of(work, 200, units), cores=SUSTAINED["cores"], elsewhere_s=gpus)


@dataclass(frozen=True, slots=True)
class _Case:
    work: Work
    backends: int
    group: int = 0
    farm: int | None = None
    #: What is nearly full goes up and down for long.
    longer: float = 1.0

    def load(self) -> Load:
        work = replace(self.work, group=self.group or self.work.group)
        return load_of(work, self.backends, farm=self.farm)


_PREVIEWS, _STILLS, _FILM = WORKS
#: One runner: how many backends it drives, its groups' size, the size of the farm whose bells it hears.
_CASES: Final = (
    _Case(_PREVIEWS, 25),
    _Case(_PREVIEWS, 50),
    _Case(_PREVIEWS, 75),
    _Case(_PREVIEWS, 100, longer=3),
    _Case(_PREVIEWS, 50, group=_LARGE_GROUP, longer=3),
    _Case(_PREVIEWS, 50, farm=1_000),
    _Case(_PREVIEWS, 50, farm=10_000),
    _Case(_STILLS, 200),
    _Case(_STILLS, 200, farm=10_000),
    _Case(_STILLS, 300),
    _Case(_STILLS, 400, longer=3),
)


def _seen(load: Load, *, longer: float = 1.0) -> Seen:
    # Until each backend is in its second prompt; then as long as all of them take for one.
    warm_up = max(10.0, 1.1 * load.render_s)
    return simulate(load, seconds=longer * max(10.0, load.render_s), warm_up=longer * warm_up)


# --- where it bends --------------------------------------------------------------------------------


def _files(work: Work, backends: float, units: Units) -> float:
    # Beside the two of one that idles, a connection for each prompt that is asked for.
    return backends * (units.backend_files + 0.5) + _FILES_OWN


def _one_group(children: int) -> Callable[[Work, float, Units], float]:
    return lambda work, backends, units: backends / work.seconds * lock_s(children, units)


def lock_s(children: int, units: Units = UNITS) -> float:
    """Return for how many seconds a child holds its group's row, in all its transactions together."""
    names = ("claim", "accepted", "started", "reported", "ended")
    # What comes before the row is asked for is a quarter, as in the simulation.
    calls: float = sum(getattr(units, f"{one}_python_ms") + getattr(units, f"{one}_postgres_ms") for one in names)
    waits = len(names) * units.commit_wait_ms
    return (calls * 3 / 4 + waits) / 1e3 + 2 * children * units.group_lock_us_per_child / 1e6


@dataclass(frozen=True, slots=True)
class _Bend:
    """Something that is used up: how much of it a farm takes, and how much there is."""

    what: str
    takes: Callable[[Work, float, Units], float]
    there_is: Callable[[Units], float]


_BENDS: Final = (
    _Bend(
        "PostgreSQL: 100 GiB more a month",
        lambda work, backends, units: need(work, backends, units).gib_a_month,
        lambda _: 100,
    ),
    _Bend("one runner: 60 % of a core", work_cores, lambda _: _PLANNED),
    _Bend("one group of 10,000 on all of them: its row", _one_group(_LARGE_GROUP), lambda _: 1.0),
    _Bend("one group of 1,000 on all of them: its row", _one_group(1_000), lambda _: 1.0),
    _Bend(
        f"PostgreSQL: {_CONNECTIONS} connections",
        lambda work, backends, units: need(work, backends, units).connections,
        lambda _: _CONNECTIONS,
    ),
    _Bend("one runner: 1,024 open files (`ulimit -n`)", _files, lambda _: _FILES),
    _Bend("every runner: rounds take all that work leaves", round_share, lambda _: 0.999 * (1 - _PLANNED)),
    _Bend(
        f"PostgreSQL: 60 % of {_POSTGRES_CORES} cores",
        lambda work, backends, units: need(work, backends, units).postgres_cores,
        lambda _: _PLANNED * _POSTGRES_CORES,
    ),
    _Bend(
        "Redis: 60 % of its core",
        lambda work, backends, units: need(work, backends, units).redis_cores,
        lambda _: _PLANNED,
    ),
)


def bend_at(work: Work, takes: Callable[[Work, float, Units], float], there_is: float, units: Units = UNITS) -> int:
    """Return the most backends for which there is enough; what they take must grow with them."""
    low, high = 0, 1
    while takes(work, high, units) <= there_is and high < 10_000_000:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if takes(work, middle, units) <= there_is else (low, middle)
    return low


# --- tables ----------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float) -> str:
    """Return a number as it may be read, to two or three digits: it is an estimate."""
    if value >= 1e6:
        for size, name in ((1e9, "billion"), (1e6, "million")):
            if value >= size:
                return f"{value / size:.3g} {name}"
    if value < 0.1:
        return "< 0.1"
    if value >= 100:
        digits = 2 if value >= 1_000 else 0
        return f"{round(value, -digits):,.0f}"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def farms(work: Work) -> str:
    """Return what farms of four sizes need for a kind of work."""
    needs = [need(work, backends) for backends in BACKENDS]
    rows: list[tuple[str, Callable[[Need], str]]] = [
        ("children a second", lambda one: _number(one.children)),
        ("rows a day", lambda one: _number(one.rows_a_day)),
        ("GiB a month", lambda one: _number(one.gib_a_month)),
        ("transactions a second", lambda one: _number(one.commits)),
        ("statements a second", lambda one: _number(one.statements)),
        ("PostgreSQL's log, MiB a second", lambda one: _number(one.wal / 2**20)),
        ("messages a second", lambda one: _number(one.messages)),
        ("cores: runners", lambda one: _number(one.runner_cores)),
        ("cores: webs", lambda one: _number(one.web_cores)),
        ("cores: PostgreSQL", lambda one: _number(one.postgres_cores)),
        ("cores: Redis", lambda one: _number(one.redis_cores)),
        ("of each runner's core, rounds", lambda one: f"{one.rounds:.0%}"),
        ("runners", lambda one: f"{one.runners:,}"),
        ("webs", lambda one: f"{one.webs:,}"),
        ("connections to PostgreSQL, at most", lambda one: _number(one.connections)),
    ]
    return _table(
        ["backends", *(f"{count:,}" for count in BACKENDS)],
        [[name, *(shown(one) for one in needs)] for name, shown in rows],
    )


def bends() -> str:
    """Return up to how many backends each thing is enough."""
    return _table(
        ["what is used up", *(one.name for one in WORKS)],
        [[bend.what, *(_number(bend_at(work, bend.takes, bend.there_is(UNITS))) for work in WORKS)] for bend in _BENDS],
    )


def simulated() -> str:
    """Return what the simulation shows of one runner."""
    head = ["work", "backends", "children of a group", "farm that rings", "they render"]
    head += ["children a second", "interpreter", "threads", "claim, mean", "claim, p95", "row, mean"]
    rows = []
    for case in _CASES:
        seen = _seen(case.load(), longer=case.longer)
        rows.append(
            [
                case.work.name,
                f"{case.backends:,}",
                f"{case.group or case.work.group:,}",
                "" if case.farm is None else f"{case.farm:,}",
                f"{seen.rendering:.0%}",
                f"{seen.completed:.1f}",
                f"{seen.python:.0%}",
                f"{seen.threads:.0%}",
                f"{seen.claim_s * 1e3:,.0f} ms",
                f"{seen.claim_p95_s * 1e3:,.0f} ms",
                f"{seen.lock_s * 1e3:,.1f} ms",
            ]
        )
    return _table(head, rows)


def compared() -> str:
    """Return what the simulation says of the farm that was measured too, beside what it did."""
    load = sustained_load()
    # More than it can do: all places come round together, in ten seconds or more.
    seen = _seen(load, longer=12)
    cpu = load.backends * load.idle_s + seen.completed * (load.loop_s + sum(one.python for one in load.course))
    postgres = (load.backends * UNITS.backend_postgres_ms + seen.completed * UNITS.child_postgres_ms) / 1e3
    return _table(
        ["", "simulated", "measured", "simulated / measured"],
        [
            [name, f"{said:.3g}", f"{was:.3g}", f"{said / was:.2f}"]
            for name, said, was in (
                ("children a second", seen.completed, SUSTAINED["completed"]),
                ("runner, cores", cpu, SUSTAINED["runner"]),
                ("PostgreSQL, cores", postgres, SUSTAINED["postgres"]),
            )
        ],
    )


def flooded() -> str:
    """Return what a runner made of more and more frames, as it was measured."""
    return _table(
        ["frames a second, of 200 prompts", "messages a second that the runner sent"],
        [
            [_number(SUSTAINED[name]), _number(SUSTAINED[name.replace("frames", "messages")])]
            for name in SUSTAINED
            if name.startswith("frames_")
        ],
    )


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"


def unit_costs() -> str:
    """Return the unit costs."""
    return _table(
        ["`Units`", "value", "what", "from"],
        [[f"`{name}`", _digits(value), what, source] for name, value, what, source in described()],
    )


TABLES: Final[dict[str, Callable[[], str]]] = {
    "previews": lambda: farms(_PREVIEWS),
    "stills": lambda: farms(_STILLS),
    "film frames": lambda: farms(_FILM),
    "bends": bends,
    "simulated": simulated,
    "compared": compared,
    "flooded": flooded,
    "unit costs": unit_costs,
    "machine": lambda: f"`python -m tests.bench.scaling --measure`, {MACHINE}.",
}


def _marks(name: str) -> tuple[str, str]:
    begin = f"<!-- {name}: python -m tests.bench.scaling --write -->\n\n"
    return begin, f"\n\n<!-- end of {name} -->"


def page(text: str) -> str:
    """Return the page with its tables as they are now."""
    for name, made in TABLES.items():
        begin, end = _marks(name)
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = before + begin + made() + end + after
    return text


def main() -> None:
    """Print the tables, write them, or measure the unit costs."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scaling", description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help="put the tables into docs/scaling.md")
    what.add_argument("--measure", action="store_true", help="measure and keep the unit costs")
    options = parser.parse_args()
    if options.measure:
        _measure()
    elif options.write:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        for name, made in TABLES.items():
            print(f"{name}\n\n{made()}\n", flush=True)


def _measure() -> None:
    from tests.bench.figures import machine
    from tests.bench.scaling_measured import measure

    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    store(machine(), found.units, found.sustained)
    print(FILE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
