"""The shapes of assets."""

from typing import Any

from jobgroups.domain.shapes import Moment, Parsed, record


@record
class StoredAsset(Parsed):
    """A stored input file.

    Attributes:
        hash: ``blake3:`` and hexadecimal digits.
        used_at: Last upload of its content, or last submission that refers to it.
    """

    id: str
    hash: str
    name: str
    size_bytes: int
    content_type: str
    created_at: Moment
    used_at: Moment | None = None

    @property
    def reference(self) -> dict[str, Any]:
        """The value of an input of a workflow, or a parameter, in place of the file's name."""
        return {"__type": "core/ASSET", "info": {"id": self.id}}


@record
class Asset(StoredAsset):
    """A stored input file.

    Attributes:
        created_new: False: the Director had the content already.
    """

    created_new: bool = False
