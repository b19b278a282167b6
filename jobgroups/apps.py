"""The app of groups, children, attempts and events."""

from django.apps import AppConfig


class JobGroupsConfig(AppConfig):
    """Job groups: submissions, their jobs and attempts, and the results."""

    name = "jobgroups"
    verbose_name = "Job groups"
    default_auto_field = "django.db.models.BigAutoField"
