"""Filter for Django's debug pages (``DIRECTOR_DEBUG``): hides settings that contain passwords."""

import re

from django.views.debug import SafeExceptionReporterFilter


class SecretsFilter(SafeExceptionReporterFilter):
    """Hides also the addresses of notification services, of webhooks, of Redis and of backends."""

    hidden_settings = re.compile(
        f"{SafeExceptionReporterFilter.hidden_settings.pattern}|NOTIFY|WEBHOOK_URLS|REDIS|CHANNEL_LAYERS|_BACKENDS",
        flags=re.IGNORECASE,
    )
