"""The admin site. Django imports this package alone; each module registers what it shows."""

from __future__ import annotations

from jobgroups.admin import backends, groups

__all__ = ["backends", "groups"]
