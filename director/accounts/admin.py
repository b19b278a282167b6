"""The admin's pages of users and groups, whose changes are in the record of who did what. Roles are
not changed there.
"""

from collections.abc import Iterable
from typing import Any, Final

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from director.accounts.people import role_of
from jobgroups.domain.access import Role
from jobgroups.domain.audit import Action
from jobgroups.domain.listener_files import account_owner
from jobgroups.services.audit import record_alone
from jobgroups.services.user_files import files_purge


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


_ROLE_FIELDS: Final = ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")

admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class _Users(_Recorded, UserAdmin):  # type: ignore[type-arg]  # as above
    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> Any:
        """With accounts, the page *People* changes roles: it keeps the last administrator."""
        return _ROLE_FIELDS if settings.DIRECTOR_ACCOUNTS else ()

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """An administrator gets another role first."""
        is_kept = settings.DIRECTOR_ACCOUNTS and obj and role_of(obj) is Role.ADMINISTRATOR
        return not is_kept and super().has_delete_permission(request, obj)

    def delete_model(self, request: HttpRequest, obj: User) -> None:
        files_purge(account_owner(obj.pk))
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        for user_id in list(queryset.values_list("pk", flat=True)):
            files_purge(account_owner(user_id))
        super().delete_queryset(request, queryset)


@admin.register(Group)
class _Groups(_Recorded, GroupAdmin):
    def has_change_permission(self, request: HttpRequest, obj: Group | None = None) -> bool:
        """The groups of roles stay as they are."""
        return not _is_role(obj) and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Group | None = None) -> bool:
        return not _is_role(obj) and super().has_delete_permission(request, obj)


def _is_role(group: Group | None) -> bool:
    return group is not None and group.name in list(Role)
