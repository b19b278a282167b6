"""Nodes for checking the Director against a real ComfyUI.

To install, copy or link this folder into ComfyUI's ``custom_nodes`` under any
name and restart ComfyUI:

    ln -s "$PWD/tests/real/comfy_nodes" /path/to/ComfyUI/custom_nodes/director_test_nodes

They need nothing but ComfyUI itself, no model and no GPU.
"""

from __future__ import annotations

# Relative, because ComfyUI decides by the folder's place what this package is called.
from .director_test_nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS  # noqa: TID252

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
