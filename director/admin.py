"""The admin site: its title, and its models in the order in which users need them."""

from typing import Any, Final

from django.contrib.admin import AdminSite
from django.http import HttpRequest

#: Sections of the site; models that no section names are internals.
_SECTIONS: Final = {
    "Renders": ("jobgroup", "childjob", "asset"),
    "Farm": ("backend", "foundbackend", "exclusion", "notice"),
    "Users": ("user", "group"),
}
_INTERNALS: Final = "Internals"


class DirectorAdminSite(AdminSite):
    """Django's admin with the product's sections in the place of its apps."""

    site_title = "Director"
    site_header = "Director"
    index_title = "Administration"
    enable_nav_sidebar = False

    def get_app_list(
        self, request: HttpRequest, app_label: str | None = None
    ) -> list[dict[str, Any]]:
        """Return the sections with the models that the user may view; of an app those alone."""
        apps = super().get_app_list(request, app_label)
        if app_label is not None:
            return apps
        models = {model["object_name"].lower(): model for app in apps for model in app["models"]}
        sections = {
            name: [models.pop(key) for key in keys if key in models]
            for name, keys in _SECTIONS.items()
        }
        sections[_INTERNALS] = list(models.values())
        return [
            {
                "name": name,
                "app_label": name.lower(),
                "app_url": "",
                "has_module_perms": True,
                "models": listed,
            }
            for name, listed in sections.items()
            if listed
        ]
