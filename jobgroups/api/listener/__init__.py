"""The ComfyUI listener: the farm as one ComfyUI, for programs that know ComfyUI's own API."""
