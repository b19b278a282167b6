"""Deliberate defects of the Director, each of which a named test must find."""
