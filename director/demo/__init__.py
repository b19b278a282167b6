"""The demo: three simulated ComfyUIs, a Director of its own, three groups, and what came of them.

It plays a user: beside starting, breaking and killing what it started, it does nothing that a
program of somebody else could not do through ``director.client``.
"""

from __future__ import annotations
