"""The Director: one call, many ComfyUI backends, nothing lost."""

from __future__ import annotations

__version__ = "0.1.0"
