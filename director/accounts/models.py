"""Tokens of programs. People are Django's users, and their roles Django's groups."""

from typing import ClassVar

from django.conf import settings
from django.db import models

from jobgroups.domain.access import Scope


class Token(models.Model):
    """A token of a person or service. Its text is shown once; the row has its digest."""

    id = models.CharField(primary_key=True, max_length=16)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="tokens"
    )
    name = models.CharField(max_length=100)
    scope = models.CharField(max_length=10, choices=[(scope.value, scope.value) for scope in Scope])
    digest = models.CharField(max_length=64, unique=True)  #: SHA-256, in hexadecimal digits.
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)
    used_at = models.DateTimeField(null=True, blank=True)  #: Last use, to the hour.
    #: The token that made it, with which it ends; null: a person or an operator of the host did.
    parent = models.ForeignKey(
        "self", on_delete=models.CASCADE, null=True, blank=True, related_name="children"
    )

    class Meta:
        ordering: ClassVar = ["-created_at", "-id"]
        constraints: ClassVar = [
            models.CheckConstraint(
                name="token_scope_known",
                condition=models.Q(scope__in=[scope.value for scope in Scope]),
            )
        ]

    def __str__(self) -> str:
        return self.name
