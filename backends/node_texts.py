"""What backends describe, as JSON texts: each distinct text is kept once, however many backends have
it.
"""

import hashlib
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import Any, Final
from weakref import WeakValueDictionary

import msgspec

from backends.node_classes import NodeClass, node_class

#: Bytes of the texts whose parsed forms are kept; a form needs some times as much as its text.
_MAX_PARSED: Final = 16 * 2**20
_ENTRY_BYTES: Final = 100  #: Of an answer that has a text, without the text.


class Description:
    """A JSON text, such as the description of one node class."""

    __slots__ = ("__weakref__", "text")

    def __init__(self, text: bytes) -> None:
        self.text = text

    @property
    def value(self) -> Any:
        return _parsed.of(self)[0]

    @property
    def node_class(self) -> NodeClass | None:
        """Return the node class that it describes; None if it is not of ComfyUI's form."""
        return _parsed.of(self)[1]


_texts: Final[WeakValueDictionary[bytes, Description]] = WeakValueDictionary()
_texts_lock: Final = threading.Lock()


def description(text: bytes) -> Description:
    """Return the description with a text, of which there is one."""
    digest = hashlib.sha256(text).digest()
    with _texts_lock:
        return _texts.setdefault(digest, Description(text))


class TextSizes:
    """The memory that the texts of several answers need. The caller holds a lock."""

    def __init__(self) -> None:
        self._uses: Counter[Description] = Counter()
        self.sum_bytes = 0

    def add(self, texts: Iterable[Description | None]) -> None:
        for text in texts:
            self.sum_bytes += _ENTRY_BYTES
            if text is not None:
                self.sum_bytes += 0 if self._uses[text] else len(text.text)
                self._uses[text] += 1

    def remove(self, texts: Iterable[Description | None]) -> None:
        for text in texts:
            self.sum_bytes -= _ENTRY_BYTES
            if text is not None:
                self._uses[text] -= 1
                if not self._uses[text]:
                    del self._uses[text]
                    self.sum_bytes -= len(text.text)


class _Parsed:
    """The parsed forms of the texts that were used last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Description, tuple[Any, NodeClass | None]] = OrderedDict()
        self._sizes = TextSizes()
        self._lock = threading.Lock()

    def of(self, described: Description) -> tuple[Any, NodeClass | None]:
        with self._lock:
            if (made := self._kept.get(described)) is not None:
                self._kept.move_to_end(described)
                return made
        value = msgspec.json.decode(described.text)
        made = value, node_class(value) if isinstance(value, dict) else None
        with self._lock:
            if described not in self._kept:
                self._kept[described] = made
                self._sizes.add([described])
            while self._sizes.sum_bytes > _MAX_PARSED:
                self._sizes.remove([self._kept.popitem(last=False)[0]])
        return made


_parsed: Final = _Parsed()
