"""App of the accounts' tables."""

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "director.accounts"
    label = "accounts"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from director.accounts.signals import connect  # noqa: PLC0415 needs the models

        connect()
