"""The admin site. Django imports this package; each module registers its pages."""

from __future__ import annotations

from jobgroups.admin import backends, groups

__all__ = ["backends", "groups"]
