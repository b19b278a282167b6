"""What a breakage is: exact replacements in the code, why they would hurt, and who notices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class StaleBreakage(Exception):
    """The code has moved on: a breakage's text is not there exactly once."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One exact replacement.

    Attributes:
        path: of the file, from the root of the repository.
        old: a text that occurs in it exactly once.
        new: what stands there in the broken code.
    """

    path: str
    old: str
    new: str

    def applied(self, text: str) -> str:
        """Return the file's text, broken.

        Raises:
            StaleBreakage: ``old`` does not occur exactly once.
            SyntaxError: what comes out is no Python.
        """
        found = text.count(self.old)
        if found != 1:
            raise StaleBreakage(f"{self.path}: occurs {found} times, not once:\n{self.old}")
        broken = text.replace(self.old, self.new)
        compile(broken, self.path, "exec")
        return broken


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakage:
    """One law of the code taken back.

    Attributes:
        name: for the test's id.
        broken: what the code does wrong now, as a sentence.
        hurts: what that would cost a user, as a sentence.
        edits: replacements that make it so; several where a law is guarded twice.
        notices: node id of the test that must fail.
        within: seconds after which a test that waits for what never comes has failed; whole, it takes
            a small part of it.
    """

    name: str
    broken: str
    hurts: str
    edits: tuple[Edit, ...]
    notices: str
    within: int = 60

    @property
    def paths(self) -> set[str]:
        """The files that it breaks."""
        return {edit.path for edit in self.edits}

    def apply(self, root: Path) -> None:
        """Break the code below ``root``.

        Raises:
            StaleBreakage: an edit does not fit the code any more.
        """
        for edit in self.edits:
            file = root / edit.path
            try:
                text = edit.applied(file.read_text(encoding="utf-8"))
            except StaleBreakage as stale:
                raise StaleBreakage(f"Refresh the breakage {self.name!r}. {stale}") from None
            file.write_text(text, encoding="utf-8")
