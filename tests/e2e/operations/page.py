"""The commands of docs/operations.md by section, in the order of the page."""

import re
from dataclasses import dataclass
from typing import Final

from tests.harness.processes import ROOT

TEXT: Final = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
FILES: Final = ROOT / "docs" / "operations"


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of commands, and the heading above it."""

    section: str
    text: str


def blocks() -> list[Block]:
    found: list[Block] = []
    section = ""
    for match in re.finditer(
        r"^##+ ([^\n]+)$|^```bash\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL
    ):
        if match[1]:
            section = match[1]
        else:
            found.append(Block(section, match[2]))
    return found


def of(*sections: str) -> list[Block]:
    found = [one for one in blocks() if one.section in sections]
    assert {one.section for one in found} == set(sections)
    return found
