"""The admin's pages of users and groups, whose changes are in the record of who did what."""

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import Model
from django.http import HttpRequest

from jobgroups.domain.audit import Action
from jobgroups.services.audit import record_alone


class _Recorded(admin.ModelAdmin):  # type: ignore[type-arg]  # generic in the stubs alone
    def log_addition(self, request: HttpRequest, obj: Model, message: Any) -> Any:
        self._record(request, [obj], "added")
        return super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: Model, message: Any) -> Any:
        # Without values, which may be passwords.
        parts = message if isinstance(message, list) else []
        fields = [name for part in parts for name in part.get("changed", {}).get("fields", ())]
        self._record(request, [obj], "changed", fields=fields)
        return super().log_change(request, obj, message)

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        self._record(request, queryset, "deleted")
        return super().log_deletions(request, queryset)

    def _record(
        self, request: HttpRequest, rows: Iterable[Model], change: str, **details: Any
    ) -> None:
        for row in rows:
            record_alone(
                Action.ADMIN_CHANGED,
                str(row),
                by=request.user.get_username(),
                kind=self.opts.model_name,
                change=change,
                **details,
            )


admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class _Users(_Recorded, UserAdmin):  # type: ignore[type-arg]  # as above
    pass


@admin.register(Group)
class _Groups(_Recorded, GroupAdmin):
    pass
