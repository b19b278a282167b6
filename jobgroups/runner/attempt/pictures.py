"""The pictures that SaveImageWebsocket sends as frames: ComfyUI has no file of them, and sends no
frame again.

They wait in this process's folder of received files until the end of their prompt. If the process
is killed before, the next one knows only that it has not received them.
"""

import asyncio
import hashlib
import logging
import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from backends.comfyui.protocol import Event, Executing, Preview, Progress, ProgressState
from jobgroups.database.shared_threads import Share
from jobgroups.domain.clock import now
from jobgroups.domain.outputs import SENT
from jobgroups.errors import StorageAway, StorageFull
from jobgroups.models import StoredFile
from jobgroups.outputs.media_facts import stored_row
from jobgroups.runner.intervals import wait_set
from jobgroups.services import stored_files
from jobgroups.services.stored_files import IncomingFile

logger = logging.getLogger(__name__)

CLASS: Final = "SaveImageWebsocket"
_MAX_WAITING: Final = 2**28  #: Bytes of the frames of all prompts that wait in memory for the disk.
#: Their own: a storage that hangs keeps no frame in memory, and nothing else.
_writer: Final = Share(1)
_storing: Final = Share(4)

Received = tuple[IncomingFile, StoredFile, str]  #: With the suffix of its name.


class SentPictures:
    """Receives the pictures of one prompt. All methods but the coroutines return at once."""

    _waiting = 0

    def __init__(self, workflow: Mapping[str, Any]) -> None:
        #: The nodes whose frames are results, in the order of the workflow; those of others are
        #: previews.
        self.nodes = tuple(
            node for node, definition in workflow.items() if definition.get("class_type") == CLASS
        )
        #: Cleared while an event of the prompt came, and neither the last one nor a lost socket
        #: since.
        self._has_all_frames = asyncio.Event()
        self._has_all_frames.set()
        self._node: str | None = None  #: The node that executes, if it is one of these.
        self._whole = set[str]()  #: The nodes during whose execution no frame was lost.
        self._announced = Counter[
            str
        ]()  #: By node: each picture comes with a step of its progress.
        self._received: dict[str, list[asyncio.Future[Received]]] = defaultdict(list)
        self._marks: list[Path] = []

    def __bool__(self) -> bool:
        return bool(self._received)

    def on_event(self, event: Event) -> None:
        if isinstance(event, Executing) and event.node is None:
            self._has_all_frames.set()
        else:
            self._has_all_frames.clear()
        match event:
            case Executing(node=node):
                self._node = node if node in self.nodes else None
                if self._node is not None:
                    self._whole.add(self._node)
            case Progress(node=str(node)) if node in self.nodes:
                self._announced[node] += 1
            case ProgressState(nodes=nodes) if (
                self._node in nodes and nodes[self._node].state == "finished"
            ):
                self._node = None

    def socket_lost(self) -> None:
        """Take in that frames may have been lost from now on."""
        self._has_all_frames.set()
        self._whole.discard(self._node or "")
        self._node = None

    def receive(self, picture: Preview) -> None:
        """Have a frame written to the disk if it is a result. One without metadata is of the node
        that executes.
        """
        node = picture.node_id if picture.prompt_id else self._node
        if node not in self.nodes:
            return
        size = len(picture.image)
        if SentPictures._waiting + size > _MAX_WAITING:
            # The count of the node's pictures shows that one is lost.
            logger.warning(
                "Node %s: a picture of %d bytes is dropped, since the disk is too slow", node, size
            )
            return
        SentPictures._waiting += size
        writing = asyncio.wrap_future(_writer.submit(_written, picture))
        writing.add_done_callback(lambda _: self._written(size))
        self._received[node].append(writing)

    def _written(self, size: int) -> None:
        SentPictures._waiting -= size

    async def wait_for_frames(self, within: float) -> None:
        """Wait at most so many seconds while the socket may still bring frames."""
        await wait_set(self._has_all_frames, within=within)

    async def collect(
        self, name: str, executed: Collection[str], cached: Collection[str], *, within: float
    ) -> tuple[dict[str, Any], dict[str, StoredFile], list[str]]:
        """Move the pictures into the storage; return the outputs of their nodes, the rows of the
        files, and warnings.

        The caller stores the rows, then calls :meth:`stored`. ``name`` begins the files' names;
        ``executed`` are the nodes that ComfyUI was to execute; ``cached`` those for which its cache
        answered. A storage that does not answer is tried again for ``within`` seconds.
        """
        node_outputs: dict[str, Any] = {}
        rows: dict[str, StoredFile] = {}
        warnings = []
        for node, results in (await self._move_all(executed, within)).items():
            files = []
            for row, suffix in (result for result in results if not isinstance(result, str)):
                filename = f"{name}_{len(rows) + 1:05}_{suffix}"
                rows[filename] = row
                files.append({"filename": filename, "subfolder": "", "type": SENT})
            if files:
                node_outputs[node] = {"images": files}
            reasons = {result for result in results if isinstance(result, str)}
            if lost := self._lost_sentence(node, len(files), node in cached, reasons):
                warnings.append(f"Node {node} ({CLASS}): {lost} ComfyUI has no file of them.")
        return node_outputs, rows, warnings

    async def _move_all(
        self, executed: Collection[str], within: float
    ) -> dict[str, list[tuple[StoredFile, str] | str]]:
        """Move the pictures of nodes at once; return what :meth:`_move` returns of each."""
        async with asyncio.TaskGroup() as tasks:
            moves = {
                node: [
                    tasks.create_task(self._move(writing, within))
                    for writing in self._received[node]
                ]
                for node in self.nodes
                if node in executed
            }
        return {node: [move.result() for move in some] for node, some in moves.items()}

    def _lost_sentence(
        self, node: str, count: int, is_cached: bool, reasons: Collection[str]
    ) -> str:
        """Return which pictures of a node are lost, as a sentence; empty: none."""
        if is_cached:
            return "it sent no pictures, since ComfyUI's cache answered for it."
        if reasons or (node in self._whole and count < self._announced[node]):
            number = max(self._announced[node], len(self._received[node]))
            cause = "; ".join(sorted(reasons)) or "they were not received"
            return f"{number - count} of its {number} pictures are lost: {cause}."
        if node in self._whole:
            return ""
        lost = (
            f"pictures beside the {count} that were received may be lost"
            if count
            else "its pictures are lost"
        )
        return f"{lost}: the Director was not connected all the time while it sent them."

    async def _move(
        self, writing: asyncio.Future[Received], within: float
    ) -> tuple[StoredFile, str] | str:
        """Move a picture into the storage; return its row and the suffix of its name, or why it is
        lost.
        """
        loop = asyncio.get_running_loop()
        give_up_at, cause = loop.time() + within, f"the storage did not answer within {within:g} s"
        while True:
            try:
                async with asyncio.timeout_at(give_up_at):
                    incoming, row, suffix = await asyncio.shield(writing)
                    self._marks.append(
                        await _storing.run(stored_files.move_marked, incoming.path, row.stored_name)
                    )
            except (StorageAway, StorageFull, OSError) as error:
                cause = str(error) or cause  # a timeout has no text
                if loop.time() >= give_up_at or writing.exception() is not None:
                    return cause
                await asyncio.sleep(within / 30)
            else:
                return row, suffix

    def stored(self) -> None:
        """Release the marks of the files, whose rows are stored."""
        for mark in self._marks:
            _writer.submit(stored_files.release_mark, mark)
        self._marks.clear()

    def discard(self) -> None:
        """Remove what was received and is not in the storage."""
        for writing in (writing for some in self._received.values() for writing in some):
            writing.add_done_callback(_discard)
        self._received.clear()


def _written(picture: Preview) -> Received:
    suffix = ".png" if picture.image_type == "png" else ".jpg"
    incoming = IncomingFile(blake3(), hashlib.sha256())
    try:
        incoming.write(picture.image)
        row = stored_row(incoming, f"picture{suffix}")
    except BaseException:
        incoming.discard()
        raise
    row.id, row.created_at = str(uuid.uuid4()), now()
    return incoming, row, suffix


def _discard(done: asyncio.Future[Received]) -> None:
    if not done.cancelled() and done.exception() is None:
        _writer.submit(done.result()[0].discard)
