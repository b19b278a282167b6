"""The app that knows what a ComfyUI is."""

from __future__ import annotations

from django.apps import AppConfig
from django.conf import settings

from backends.comfyui.destinations import allow_link_local


class BackendsConfig(AppConfig):
    """Backends: where they are, how they are, what they can."""

    name = "backends"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Give the client, which knows no settings, the one that it needs everywhere."""
        allow_link_local(settings.DIRECTOR_ALLOW_LINK_LOCAL)
