"""The event log of a group and its publication."""
