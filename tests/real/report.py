"""What was seen, as a page: ``docs/real-comfyui.md``."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "docs" / "real-comfyui.md"

HEAD = """\
# Checked against a real ComfyUI

Written by `make test-real COMFYUI=http://host:port REPORT=1`, which starts a Director, gives it that
ComfyUI as its only backend and drives it through `director.client`. The nodes that it runs are in
`tests/real/comfy_nodes`; they need no model and no GPU. `COMFYUI_CHECKPOINT=name` adds a run of that
checkpoint. `COMFYUI_COMMAND="…"` adds what needs a ComfyUI that may be killed: a command line that
runs one in the foreground, on port `{port}`, with its outputs in `{folder}` or below, for example
`python /path/to/ComfyUI/main.py --port {port} --output-directory {folder}`.

| | |
| --- | --- |
"""


@dataclass(slots=True)
class Report:
    """Collects a line per scenario; knows nothing of how they were tested."""

    facts: dict[str, str]
    seen: list[tuple[str, str]] = field(default_factory=list)

    def add(self, scenario: str, seen: str) -> None:
        """Note what ``scenario`` showed. Called by a test as its last act: it passed."""
        self.seen.append((scenario, seen))

    def page(self) -> str:
        """Return the page in Markdown."""
        facts = "".join(f"| {name} | {value} |\n" for name, value in self.facts.items())
        rows = "".join(f"| {scenario} | {seen} |\n" for scenario, seen in self.seen)
        return f"{HEAD}{facts}\n| scenario | what was seen |\n| --- | --- |\n{rows}"

    def write(self) -> None:
        """Write the page; the folder ``docs`` is there."""
        PAGE.write_text(self.page(), encoding="utf-8")


def facts_of(director_version: str, stats: dict[str, Any]) -> dict[str, str]:
    """Return the versions, ComfyUI's out of ``/system_stats``; its ``argv`` has paths, not here."""
    system, devices = stats["system"], stats["devices"]
    return {
        "Date": datetime.now(UTC).date().isoformat(),
        "Director": director_version,
        "ComfyUI": str(system["comfyui_version"]),
        "Python, PyTorch": f"{system['python_version'].split()[0]}, {system['pytorch_version']}",
        "Devices": ", ".join(str(device["type"]) for device in devices),
    }
