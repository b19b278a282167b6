"""Base of the admin's pages: columns with links and JSON text, and pages that change nothing."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.utils import quote
from django.db.models import ForeignKey, Model, QuerySet
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from backends.errors import RequestError
from jobgroups.domain.audit import actor
from jobgroups.domain.text import pluralize

_MAX_SHOWN = 20_000  #: Longer JSON is cut: browsers cannot show a workflow of megabytes.


@dataclass(frozen=True)
class Column:
    """A column of lists and pages that is computed from a field; a subclass returns its value when
    called.
    """

    short_description: str
    key: str  #: Attribute of the row.


@dataclass(frozen=True)
class Link(Column):
    """The key of another row, linked to its page; the key of a deleted row stays readable."""

    model: type[Model]

    @property
    def admin_order_field(self) -> str:
        return self.key

    def __call__(self, row: Model) -> SafeString | str:
        return row_link(self.model, getattr(row, self.key))


@dataclass(frozen=True)
class JsonText(Column):
    def __call__(self, row: Model) -> SafeString | str:
        text = getattr(row, self.key)
        if text is None:
            return "-"
        indented = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
        if len(indented) > _MAX_SHOWN:
            indented = f"{indented[:_MAX_SHOWN]}\n… (cut; the API has the whole text)"
        return format_html("<pre>{}</pre>", indented)


@dataclass(frozen=True)
class ListLink(Column):
    """A link to the list of the rows that belong to a row."""

    model: type[Model]
    #: Makes the text of the link from the row; None: the column's description.
    text: Callable[[Any], str] | None = None

    def __call__(self, row: Model) -> SafeString:
        text = self.short_description if self.text is None else self.text(row)
        query = urlencode({self.key: row.pk})
        return format_html('<a href="{}?{}">{}</a>', _url(self.model, "changelist"), query, text)


def _url(model: type[Model], page: str, *args: str) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


def row_link(model: type[Model], key: object) -> SafeString | str:
    """Return a link to a row's page, named by its key; "-" for none."""
    if key is None or key == "":
        return "-"
    try:
        # Quoted: the admin decodes an underscore and two hexadecimal digits.
        url = _url(model, "change", quote(str(key)))
    except NoReverseMatch:
        return str(key)
    return format_html('<a href="{}">{}</a>', url, key)


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic in the stubs alone
    """Shows rows. Only the services write: nothing is added, changed or deleted here.

    A foreign key ``name`` is the column ``name_link``, and a text ``name_json`` the column
    ``name``. The actions are what :func:`action` and ``admin.action`` made; they require the
    permission ``operate``, which users with the model's change permission have.
    """

    listed_columns = ""  #: ``list_display``, separated by blanks.
    #: Arguments of the services that actions call, and the columns of them.
    keys: ClassVar[dict[str, str]] = {}
    noun: ClassVar[tuple[str, str]] = ("row is", "rows are")
    list_per_page = 50
    # Counting a log of millions of rows takes longer than showing its newest.
    show_full_result_count = False

    def __init__(self, model: type[Model], site: admin.AdminSite) -> None:
        super().__init__(model, site)
        if self.listed_columns:
            self.list_display = [*self.listed_columns.split()]
        own = vars(type(self)).items()
        self.actions = [name for name, act in own if hasattr(act, "allowed_permissions")]
        self._columns = {
            name: attribute for name, attribute in own if isinstance(attribute, Column)
        }
        for field in model._meta.fields:
            name = field.name.removesuffix("_json")
            if isinstance(field, ForeignKey):
                kind = field.related_model
                self._columns[f"{name}_link"] = Link(
                    str(kind._meta.verbose_name), field.attname, kind
                )
            elif name != field.name:
                self._columns[name] = JsonText(name.replace("_", " "), field.name)
        for name, column in self._columns.items():
            setattr(self, name, column)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [*self.readonly_fields, *self._columns]

    def get_exclude(self, request: HttpRequest, obj: Any = None) -> list[str]:
        # The link to a list is not made from a field of the row.
        made = [column for column in self._columns.values() if not isinstance(column, ListLink)]
        return [*(self.exclude or ()), *(column.key.removesuffix("_id") for column in made)]

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    has_change_permission = has_delete_permission = has_add_permission

    def has_operate_permission(self, request: HttpRequest) -> bool:
        name = f"{self.opts.app_label}.change_{self.opts.model_name}"
        return request.user.has_perm(name)


def action(
    description: str,
    result: str,
    service: Callable[..., Any],
    *,
    noun: tuple[str, str] | None = None,
    **arguments: Any,
) -> Callable[[ReadOnlyAdmin, HttpRequest, QuerySet[Any]], None]:
    """Return an action that calls a service for each row, with the user's name if the service
    stores it.

    It reports how many rows were changed, and why a service refused the others. With ``noun`` the
    services return how many such objects they changed.
    """

    @admin.action(description=description, permissions=["operate"])
    def act(page: ReadOnlyAdmin, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        by = {"by": request.user.get_username()} if "by" in signature(service).parameters else {}
        if known := actor.get():
            actor.set(replace(known, name=request.user.get_username()))
        count = 0
        for row in list(queryset.values_list(*page.keys.values())):
            try:
                changed = service(**dict(zip(page.keys, row, strict=True)), **by, **arguments)
                count += 1 if noun is None else changed
            except RequestError as error:
                page.message_user(request, str(error), messages.WARNING)
        page.message_user(
            request, f"{pluralize(count, *(noun or page.noun))} {result}.", messages.SUCCESS
        )

    return act


def register_rows(
    model: type[Model],
    listed_columns: str,
    *,
    filters: str = "",
    search: str = "",
    ordering: str = "",
    columns: Mapping[str, Column] | None = None,
) -> None:
    """Register pages that only show the rows of a model. Names of fields and columns are separated
    by blanks.
    """
    fields = {"list_filter": filters, "search_fields": search, "ordering": ordering}
    options = {name: names.split() for name, names in fields.items()} | {
        "listed_columns": listed_columns,
        **(columns or {}),
    }
    admin.site.register(model, type(f"{model.__name__}Admin", (ReadOnlyAdmin,), options))
