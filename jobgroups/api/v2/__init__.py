"""The Comfy API v2: its paths, requests and error shape. It is the contract of ComfyUI's own SDK."""
