"""Eight unequal machines, two hundred children, twelve policies: the table, and what happens when."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jobgroups.domain.failures import FailureClass
from tests.e2e.backend_failures.promises import quarantines
from tests.e2e.backend_failures.scene import Scene, large_picture, rare_picture
from tests.harness.machines import Build
from tests.harness.simulators import picture

#: Pixels above which a picture does not fit into the small card.
FITS = 64 * 64

MACHINES = (
    # Two that are well, but for a person who sets the second one aside for a while.
    Build("swift", 0.1, faults=("node_error:node=cursed,message=bad latent,count=0",)),
    Build("steady", 0.2, vram=48),
    # Its card is too small for large pictures.
    Build("small", 0.3, vram=8, faults=(f"out_of_memory:pixels={FITS},count=0",)),
    # Lacks a model.
    Build("bare", 0.2, models=()),
    # Its network comes and goes; once it is unplugged for longer than anybody waits for it.
    Build(
        "flapping",
        0.3,
        faults=(
            "refuse_connections:at=ended,after=1,seconds=0.5",
            "drop_sockets:at=step,step=2,after=3,count=2",
            "reset_http:route=/prompt,method=POST,after=4",
            "lose_answer:after=5",
            "slow_http:route=/history,seconds=0.5,after=3,count=3",
        ),
    ),
    # Crashes in every fourth render.
    Build("crashing", 0.4, faults=tuple(f"restart:at=step,step=2,down=0.3,after={n}" for n in (2, 6, 10, 14))),
    # Its GPU breaks, and stays broken until it is started again.
    Build("broken", 0.5, faults=("cuda_fatal:after=3",)),
    # One prompt of it takes too long, another one cannot even be stopped.
    Build(
        "hanging",
        0.8,
        faults=(
            "stuck:step=2,interruptible=1,after=1,mark=director",
            "stuck:step=2,interruptible=0,after=2,mark=director",
        ),
    ),
)
NAMES = [build.name for build in MACHINES]


def cursed_picture() -> dict[str, Any]:
    """Return a workflow whose sampler raises at ``swift``."""
    graph = picture()
    graph["cursed"] = graph.pop("3")
    graph["8"]["inputs"]["samples"] = ["cursed", 0]
    return graph


def wrong_picture() -> dict[str, Any]:
    """Return a workflow that every ComfyUI refuses."""
    graph = picture()
    del graph["3"]["inputs"]["sampler_name"]
    return graph


@dataclass(frozen=True, slots=True)
class Wanted:
    """A group to be submitted: so many children at each of its machines, and its policy."""

    label: str
    counts: dict[str, int]
    max_attempts: int = 1
    retry_elsewhere: bool | str = False
    retry_on: tuple[str, ...] | None = None
    workflow: Callable[[], dict[str, Any]] = picture

    @property
    def backend_ids(self) -> list[str]:
        """One entry for each child, the machines in turn."""
        rounds = range(max(self.counts.values()))
        return [name for n in rounds for name, count in self.counts.items() if n < count]

    @property
    def policy(self) -> dict[str, Any]:
        """The policy's fields of the submission."""
        retry_on = None if self.retry_on is None else list(self.retry_on)
        fields = {"max_attempts": self.max_attempts, "retry_elsewhere": self.retry_elsewhere}
        return fields | {"retry_on": retry_on}


GROUPS = (
    Wanted("careful", dict.fromkeys(NAMES, 8), 3, True),
    Wanted("nothing said", dict.fromkeys(NAMES, 5)),
    Wanted("anywhere", {"crashing": 6, "broken": 6, "hanging": 6}, 3, "any"),
    Wanted("large", {"small": 6, "steady": 4}, 2, "group", ("out_of_memory",), large_picture),
    Wanted("too large, and stays", {"small": 4}, 2, False, None, large_picture),
    Wanted("rare model", {"bare": 8, "steady": 2}, 2, "any", None, rare_picture),
    Wanted("stubborn", {"crashing": 8, "flapping": 8}, 3, False),
    Wanted("choosy", {"hanging": 6, "broken": 6, "flapping": 6}, 2, True, ("stalled", "timeout")),
    Wanted("wrong", {"swift": 2, "steady": 2}, 3, "any", None, wrong_picture),
    Wanted("cursed", {"swift": 6}, 2, False, ("node_error",), cursed_picture),
    Wanted("cursed once", {"swift": 4}, 3, True, ("out_of_memory",), cursed_picture),
    Wanted("struck", {"steady": 6}, 3, False),
)
CHILDREN = sum(len(one.backend_ids) for one in GROUPS)


# --- what happens when ----------------------------------------------------------------------------


@dataclass(slots=True)
class Act:
    """Something that is done once, as soon as a condition holds."""

    name: str
    when: Callable[[], Any]
    do: Callable[[], None]
    done: bool = False


class Story:
    """Submits the groups, and does to the machines and the Director what is to happen meanwhile."""

    def __init__(self, play: Scene) -> None:
        self.play = play
        self.groups: dict[str, str] = {}
        self._at: dict[str, float] = {}
        self.acts = [
            Act("the Director is killed", lambda: self._started() >= 50, self._kill),
            # Later: what ended while the Director was away can be asked for then.
            Act("flapping is unplugged", lambda: self._since("back") > 2, self._unplug),
            Act("flapping is plugged in", lambda: self._since("unplugged") > 8, self._plug_in),
            Act("steady is set aside", lambda: self._started("steady") >= 8, self._set_aside),
            Act("steady is released", lambda: self._since("set aside") > 2, self._release),
            Act("broken is started again", self._broken_may_be_mended, self._mend),
            Act("hanging is started again", self._hanging_is_given_up, self._power_cycle),
        ]

    def submit(self) -> None:
        """Submit every group; somebody stops two prompts of one of them at its machine."""
        for wanted in GROUPS:
            group_id = self.play.submit(wanted.label, wanted.workflow(), wanted.backend_ids, **wanted.policy)
            self.groups[wanted.label] = group_id
        steady = self.play.machines["steady"]
        steady.fault("interrupt", at="step", step=2, count=2, mark=self.groups["struck"])

    def go_on(self, within: float = 90.0) -> None:
        """Do each act when its time has come, until all are done and all groups have ended.

        Raises:
            AssertionError: not within so many seconds; it names what has not happened.
        """
        end = time.monotonic() + within
        while left := [one for one in self.acts if not one.done]:
            for act in left:
                if act.when():
                    act.do()
                    act.done = True
            assert time.monotonic() < end, f"it never came to: {[one.name for one in left]}"
            time.sleep(0.1)
        self.play.wait_ended(max(1.0, end - time.monotonic()))

    # --- conditions -------------------------------------------------------------------------------

    def _started(self, name: str | None = None) -> int:
        began = [one for one in self.play.machines.seen() if one["kind"] == "started"]
        return sum(name in (None, one["backend"]) for one in began)

    def _since(self, moment: str) -> float:
        return time.monotonic() - self._at.get(moment, float("inf"))

    def _broken_may_be_mended(self) -> bool:
        return self._since("back") > 2 and any(
            one.backend_id == "broken" for one in quarantines(self.play.director.data)
        )

    def _hanging_is_given_up(self) -> bool:
        """Whether those that may not leave it have ended, and the others have left it."""
        query = "SELECT 1 FROM jobgroups_attempt WHERE backend_id = 'hanging' AND failure_class = ?"
        if not self.play.director.rows(query, FailureClass.STALLED):
            return False
        waits = "SELECT 1 FROM jobgroups_childjob WHERE backend_id = 'hanging' AND status = 'queued'"
        return not self.play.director.rows(waits)

    # --- acts -------------------------------------------------------------------------------------

    def _kill(self) -> None:
        self.play.director.kill()
        self.play.machines.strangers()
        self.play.director.start()
        self._at["back"] = time.monotonic()

    def _unplug(self) -> None:
        self.play.machines["flapping"].unplug()
        self._at["unplugged"] = time.monotonic()

    def _plug_in(self) -> None:
        self.play.machines["flapping"].start()

    def _set_aside(self) -> None:
        self.play.tell("steady", "quarantine", by="anna", reason="its fan is loud")
        self._at["set aside"] = time.monotonic()

    def _release(self) -> None:
        self.play.tell("steady", "release", by="anna")

    def _mend(self) -> None:
        self.play.machines["broken"].unplug()
        self.play.machines["broken"].start()

    def _power_cycle(self) -> None:
        self.play.machines["hanging"].unplug()
        self.play.machines["hanging"].start()
