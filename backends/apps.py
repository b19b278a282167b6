"""App of the registered ComfyUIs."""

from django.apps import AppConfig
from django.conf import settings

from backends.comfyui.destinations import allow_link_local


class BackendsConfig(AppConfig):
    name = "backends"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Pass the setting on link-local addresses to the ComfyUI client, which reads no settings."""
        allow_link_local(settings.DIRECTOR_ALLOW_LINK_LOCAL)
