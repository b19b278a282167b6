"""The session of one backend, while this runner holds its lease."""
