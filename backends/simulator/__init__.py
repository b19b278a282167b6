"""A ComfyUI without a GPU: a real HTTP and WebSocket server that behaves as the recorded one.

For tests, in the running loop:

    async with Simulator(name="gpu-1", seconds=0.2) as sim:
        sim.fault("lose_answer")
        ...
        await sim.wait_for("ended", prompt_id=prompt_id)

From a shell: `python -m backends.simulator --count 3`. Needs no Django and no database.
"""

from backends.simulator.audit_log import read_audit_log
from backends.simulator.server import Simulator

__all__ = ["Simulator", "read_audit_log"]
