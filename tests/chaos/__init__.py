"""A farm of processes whose parts are killed, frozen and cut off, and what must hold all the same."""
