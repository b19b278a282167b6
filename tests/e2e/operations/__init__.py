"""A studio's machine of a test's own, on which docs/operations.md is followed to the letter."""
