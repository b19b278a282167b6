"""The admin site. Django imports this package; each module registers its pages."""

from jobgroups.admin import backends, groups

__all__ = ["backends", "groups"]
