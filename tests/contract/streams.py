"""Bring the frames of one socket into a form in which only a server's mistakes differ.

Four things in a stream depend on timing and not on the server; nothing else is evened out.

1. ComfyUI sends the queue's length from two threads: requests do it in the server's loop, the start
   and the end of a prompt in the worker. So each length is compared by its change to the one
   before; the status of a prompt posted *while another was there* may stand anywhere, and any other
   status that fell between two steps of one prompt may fall between two others.
2. How many steps a sampler still takes before an interrupt, a close or a kill reaches it.
3. How many steps a sampler has taken when a socket joins its run.
4. Which steps a newer server leaves out, if they are less than 0.1 s apart. The first and the last
  are sent.

In 2 and 3 the steps seen must be the same steps as recorded, only fewer or more of them.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tests.contract.recording import PROGRESS, Event, kind


@dataclass(frozen=True, slots=True)
class Stream:
    """A socket's frames, the movable status frames taken out and only counted."""

    items: list[Event | list[Event]]  # a list: progress frames that belong together
    moved: int


def busy_posts(events: list[Event]) -> frozenset[int]:
    """Which rises of the queue's length (first is 0) were POSTs while another prompt was there.

    One rise is none: in 16_poison_dup the end of a prompt uncovers two whose POSTs failed.
    """
    lengths = [_length(event) for event in events if _is_status(event)]
    rises = [after for before, after in pairwise(lengths) if after > before]
    return frozenset(turn for turn, length in enumerate(rises) if length > 1)


def stream(events: list[Event], movable: frozenset[int]) -> Stream:
    """``events`` with lengths as changes, without the ``movable`` rises, progress gathered."""
    items: list[Event | list[Event]] = []
    rises = moved = 0
    length: int | None = None
    for event in events:
        if not _is_status(event):
            _append(items, event)
            continue
        change, length = _change(length, _length(event)), _length(event)
        rises += change == "+1"
        if change == "+1" and rises - 1 in movable:
            moved += 1
        else:
            items.append(_with_length(event, change))
    return Stream(items, moved)


def _append(items: list[Event | list[Event]], event: Event) -> None:
    if kind(event) not in PROGRESS:
        items.append(event)
        return
    run = _run_before(items)
    if run is None or not (items[-1] is run or _prompt(run) == _prompt([event])):
        items.append([event])
        return
    del items[next(i for i, item in enumerate(items) if item is run)]
    items.append([*run, event])  # a status between two steps of one prompt now stands before them


def _run_before(items: list[Event | list[Event]]) -> list[Event] | None:
    """The last run of progress, if nothing but status frames followed it."""
    for item in reversed(items):
        if isinstance(item, list):
            return item
        if not _is_status(item):
            return None
    return None


def _prompt(run: list[Event]) -> str | None:
    """The prompt a run of progress belongs to; None if it holds nothing but bare previews."""
    named = (event["frame"]["data"]["prompt_id"] for event in run if "frame" in event)
    return next(named, None)


def _is_status(event: Event) -> bool:
    return kind(event) == "status"


def _length(event: Event) -> int:
    return int(event["frame"]["data"]["status"]["exec_info"]["queue_remaining"])


def _change(before: int | None, after: int) -> Any:
    return after if before is None else f"{after - before:+d}"


def _with_length(event: Event, length: Any) -> Event:
    data = event["frame"]["data"]
    status = {**data["status"], "exec_info": {"queue_remaining": length}}
    return {**event, "frame": {**event["frame"], "data": {**data, "status": status}}}


def steps(run: list[Event]) -> list[tuple[str, int]]:
    """The steps that were reported, each with its node."""
    return [_step(event) for event in run if kind(event) == "progress"]


def shared(
    mine: list[Event], other: list[Event], *, is_cut: bool
) -> tuple[list[Event], list[Event]]:
    """Both runs with the steps alone that both reported; a step is a `progress` behind its
    `progress_state`.
    """
    both = set(steps(mine)) & set(steps(other))

    def kept(run: list[Event]) -> list[Event]:
        places = [i for i, event in enumerate(run) if kind(event) == "progress"]
        dropped = {i for i in places if _step(run[i]) not in both}
        end = max(places, default=-1) + 1 if is_cut else len(run)
        return [event for i, event in enumerate(run[:end]) if not {i, i + 1} & dropped]

    return kept(mine), kept(other)


def _step(event: Event) -> tuple[str, int]:
    return event["frame"]["data"]["node"], event["frame"]["data"]["value"]


def cut(items: list[Event | list[Event]], index: int) -> tuple[bool, bool]:
    """Whether the steps at ``index`` may lack some at their start, and at their end."""
    following = next(
        (item for item in items[index + 1 :] if isinstance(item, list) or not _is_status(item)),
        None,
    )
    at_end = following is None or (
        not isinstance(following, list) and kind(following) in {"closed", "execution_interrupted"}
    )
    return _joined(items[:index]), at_end


def _joined(before: list[Event | list[Event]]) -> bool:
    """Whether a socket's only frames so far are those it gets when it joins a running prompt."""
    if not before or isinstance(before[0], list) or kind(before[0]) != "status":
        return False
    rest = [item for item in before[1:] if isinstance(item, list) or not _joining(item)]
    return not rest and _length(before[0]) > 0


def _joining(event: Event) -> bool:
    return kind(event) == "feature_flags" or (
        kind(event) == "executing" and "prompt_id" not in event["frame"]["data"]
    )
