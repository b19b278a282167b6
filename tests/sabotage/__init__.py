"""Deliberate breakages of the Director, each of which a named test must notice."""
