"""A ComfyUI without a GPU: a real HTTP and WebSocket server that behaves as the recorded one.

For tests, in the running loop or in a thread of its own:

    async with Simulator(name="gpu-1", seconds=0.2) as sim:
        sim.fault("lose_answer")
        ...
        await sim.wait_for("ended", prompt_id=prompt_id)

From a shell: `python -m backends.simulator --count 3`. Needs no Django and no database.
"""

from __future__ import annotations

from backends.simulator.audit_log import read_audit_log
from backends.simulator.config import Config
from backends.simulator.faults import FaultError
from backends.simulator.process import PortInUse
from backends.simulator.server import Simulator
from backends.simulator.threaded import SimulatorThread

__all__ = ["Config", "FaultError", "PortInUse", "Simulator", "SimulatorThread", "read_audit_log"]
