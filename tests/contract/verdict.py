"""The differences between a recording and its replay: an empty list is a kept contract."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.contract import compare, streams
from tests.contract.recording import Event, Recording, kind
from tests.contract.renames import Names

Items = list[Event | list[Event]]


@dataclass(slots=True)
class Replay:
    """Answers by turn of the step, frames by socket, names, and why the replay could not go on."""

    answers: dict[int, Event] = field(default_factory=dict)
    frames: dict[str, list[Event]] = field(default_factory=dict)
    names: Names = field(default_factory=Names)
    stuck: str | None = None


def differences(recording: Recording, names: Names, replay: Replay) -> list[str]:
    found = [f"the replay stopped: {replay.stuck}"] if replay.stuck else []
    for turn, step in enumerate(recording.steps):
        if step.answer is not None and turn in replay.answers:
            mine = names.plain(step.answer)
            other = replay.names.plain(replay.answers[turn])
            request = names.plain(step.event)
            found += [f"step {turn} {line}" for line in compare.answers(request, mine, other)]
    for socket, events in recording.frames.items():
        late = recording.late[socket]
        mine = [names.plain(event) for event in events]
        other = [replay.names.plain(event) for event in replay.frames.get(socket, [])]
        lines = sockets(mine, other, late, is_throttled=recording.is_throttled)
        found += [f"socket {socket} {line}" for line in lines]
    return found


def sockets(
    recorded: list[Event], seen: list[Event], late: list[Event], *, is_throttled: bool = False
) -> Iterator[str]:
    """Differences between what one socket received; ``late`` came in the recording after its close."""
    movable = streams.busy_posts(recorded + late)
    mine, other = streams.stream(recorded, movable), streams.stream(seen, movable)
    if not mine.moved <= other.moved <= mine.moved + len(late):
        yield f"POSTs to a busy server announced: recorded {mine.moved}, seen {other.moved}"
    yield from _items(mine.items, other.items, is_throttled=is_throttled)


def _items(recorded: Items, seen: Items, *, is_throttled: bool) -> Iterator[str]:
    i = j = 0
    while i < len(recorded) or j < len(seen):
        mine = recorded[i] if i < len(recorded) else None
        other = seen[j] if j < len(seen) else None
        if isinstance(mine, list) and not isinstance(other, list) and any(streams.cut(recorded, i)):
            i += 1  # all of these steps fell to the cut
            continue
        if isinstance(other, list) and not isinstance(mine, list) and any(streams.cut(seen, j)):
            j += 1
            continue
        if not _same_kind(mine, other):
            yield f"frame {i}: recorded {_described(mine)}, seen {_described(other)}"
            return  # what follows is out of step
        if isinstance(mine, list) and isinstance(other, list):
            yield from _runs(
                f"frame {i}", mine, other, streams.cut(recorded, i), is_throttled=is_throttled
            )
        elif mine is not None and other is not None and not isinstance(mine, list):
            yield from (f"frame {i} {line}" for line in compare.frames(mine, other))  # type: ignore[arg-type]
        i, j = i + 1, j + 1


def _runs(
    where: str, mine: list[Event], other: list[Event], cut: tuple[bool, bool], *, is_throttled: bool
) -> Iterator[str]:
    """Differences between two runs of progress, which may lack some steps where they are cut."""
    at_start, at_end = cut
    if is_throttled:
        if not _same_ends(streams.steps(mine), streams.steps(other), cut):
            yield f"{where}: another first or last step"
        mine, other = streams.shared(mine, other, is_cut=at_end)
    if not any(cut) and len(mine) != len(other):
        yield f"{where}: recorded {len(mine)} progress frames, seen {len(other)}"
    if at_start and at_end:
        if not is_throttled and not _overlap(mine, other):
            yield f"{where}: the progress seen is not part of the one recorded"
        return
    pairs = (
        zip(reversed(mine), reversed(other), strict=False)
        if at_start
        else zip(mine, other, strict=False)
    )
    for recorded, seen in pairs:
        if kind(recorded) != kind(seen):
            yield f"{where}: recorded {kind(recorded)}, seen {kind(seen)}"
            return
        yield from (f"{where} {line}" for line in compare.frames(recorded, seen))


def _same_ends(mine: list[Any], other: list[Any], cut: tuple[bool, bool]) -> bool:
    return (cut[0] or mine[:1] == other[:1]) and (cut[1] or mine[-1:] == other[-1:])


def _overlap(mine: list[Event], other: list[Event]) -> bool:
    """Whether the two runs are pieces of one: somewhere all that lies side by side is equal."""
    return any(
        all(
            _equal(a, b)
            for a, b in zip(mine[max(shift, 0) :], other[max(-shift, 0) :], strict=False)
        )
        for shift in range(1 - len(other), len(mine))
    )


def _equal(recorded: Event, seen: Event) -> bool:
    return kind(recorded) == kind(seen) and not any(compare.frames(recorded, seen))


def _same_kind(mine: Event | list[Event] | None, other: Event | list[Event] | None) -> bool:
    return _name(mine) == _name(other)


def _name(item: Event | list[Event] | None) -> str:
    if item is None:
        return "nothing"
    return "progress" if isinstance(item, list) else kind(item)


def _described(item: Event | list[Event] | None) -> str:
    if isinstance(item, list):
        return f"{len(item)} progress frames"
    shown = item and {k: v for k, v in item.items() if k not in {"t", "dir", "client"}}
    return f"{_name(item)} {shown or ''}"[:400]
