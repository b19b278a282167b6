"""The project as an app: its commands, checks and static files."""

from django.apps import AppConfig


class DirectorConfig(AppConfig):
    """The Director's own commands and system checks."""

    name = "director"

    def ready(self) -> None:
        """Register the system checks."""
        from director import checks  # noqa: F401, PLC0415 registers itself; needs loaded apps
