"""A breakage: a law of the code taken back by exact replacements, and the test that must fail."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Edit:
    """One exact replacement: ``old`` occurs exactly once in the file."""

    path: str
    old: str
    new: str

    def apply(self, root: Path) -> str:
        """Return the file's text below ``root`` with the replacement; it must be Python."""
        text = (root / self.path).read_text(encoding="utf-8")
        found = text.count(self.old)
        if found != 1:
            raise ValueError(f"{self.path}: occurs {found} times, not once:\n{self.old}")
        broken = text.replace(self.old, self.new)
        compile(broken, self.path, "exec")
        return broken


@dataclass(frozen=True, slots=True)
class Breakage:
    """One law of the code taken back.

    Attributes:
        broken: what the code does wrong, as a sentence.
        hurts: what that costs a user, as a sentence.
        notices: node id, below ``tests``, of the test that must fail.
        edits: several if the law is guarded twice.
        within: seconds after which a test that waits in vain has failed.
        on_postgresql: SQLite, with one writer, hides it.
    """

    broken: str
    hurts: str
    notices: str
    edits: Sequence[Edit]
    within: int = 60
    on_postgresql: bool = False

    @property
    def paths(self) -> set[str]:
        return {edit.path for edit in self.edits}

    def apply(self, root: Path) -> None:
        for edit in self.edits:
            (root / edit.path).write_text(edit.apply(root), encoding="utf-8")
