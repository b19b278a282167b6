"""System checks: set-ups that would start and then lie."""

from __future__ import annotations
