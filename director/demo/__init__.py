"""The demo: three job groups on three simulated ComfyUIs, in its own event loop, and a Director in
another process.

Except for injecting faults, starting and killing the Director, it uses ``director.client`` only.
"""
