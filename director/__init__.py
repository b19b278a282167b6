"""The Director: one call, many ComfyUI backends, nothing lost."""

__version__ = "0.1.0"
