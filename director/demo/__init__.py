"""The demo: three job groups on three simulated ComfyUIs and a separate Director.

Except for starting processes, injecting faults and killing the Director, it uses ``director.client`` only.
"""
