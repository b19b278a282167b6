"""The app that knows what a ComfyUI is."""

from __future__ import annotations

from django.apps import AppConfig


class BackendsConfig(AppConfig):
    """Backends: where they are, how they are, what they can."""

    name = "backends"
    default_auto_field = "django.db.models.BigAutoField"
