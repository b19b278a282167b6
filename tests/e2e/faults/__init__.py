"""Faults of a machine: a full disk, a clock that jumps, a power failure."""
