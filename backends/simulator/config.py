"""What one simulated ComfyUI is started with."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.simulator import releases
from backends.simulator.releases import Release

DEFAULT_CHECKPOINTS = ("random_sd15.safetensors", "tiny_sd15.safetensors")  # the recordings'
COMMON_CHECKPOINTS = (  # checkpoints that common workflows name; the command offers them too
    "v1-5-pruned-emaonly-fp16.safetensors",
    "v1-5-pruned-emaonly.safetensors",
    "sd_xl_base_1.0.safetensors",
)
RECORDED_VERSIONS = ("0.3.64", "0.33.0")
MAX_UPLOAD_BYTES = 104_857_600  # `--max-upload-size` 100 MiB, ComfyUI's default


@dataclass(frozen=True, slots=True)
class Config:
    name: str = "simulator"  # drawn into every image and written to the audit log
    host: str = "127.0.0.1"
    port: int = 0  # 0: a free one is picked at the first start and kept
    seconds: float = 0.0  # a prompt's sampling time, spread over its steps; 0: no waiting
    steps: int | None = None  # None: the workflow's `steps`
    # of a node that loads a model; one that the last prompt had too is cached
    load_seconds: float = 0.0
    lenient: bool = False  # also run what ComfyUI would refuse
    preview_fps: float = 0.0  # previews per second at most; 0: none (`--preview-method none`)
    output_dir: Path | None = None  # holds output, temp, input; None: a temporary folder
    vram_gb: float | None = None  # None: a CPU device, as in the recordings
    version: str = RECORDED_VERSIONS[0]  # it behaves as this one; see `releases`
    checkpoints: tuple[str, ...] = DEFAULT_CHECKPOINTS
    krita: bool = False  # Krita's own nodes, with their routes
    max_upload_bytes: int = MAX_UPLOAD_BYTES
    file_clock: float = 0.0  # seconds by which the clock that dates its files is ahead of its own
    audit_log: Path | None = None  # JSON lines; None: in memory only

    @property
    def features(self) -> dict[str, Any]:
        """What the server offers: GET /features, and its answer to a client's feature flags."""
        offered: dict[str, Any] = {
            "supports_preview_metadata": True,
            "max_upload_size": self.max_upload_bytes,
        }
        if self.release >= releases.RECORDED:
            offered |= {
                "supports_model_type_tags": True,
                "extension": {"manager": {"supports_v4": True}},
            }
            offered |= {"node_replacements": True, "assets": False}
        return offered

    @property
    def release(self) -> Release:
        """The version's three numbers; a version without numbers counts as the newest."""
        numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", self.version)
        return tuple(int(number or 0) for number in numbers.groups()) if numbers else (999,)
