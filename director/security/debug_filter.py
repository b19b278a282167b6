"""What Django's debug pages (``DIRECTOR_DEBUG``) show of the settings: nothing with a password in it."""

from __future__ import annotations

import re

from django.views.debug import SafeExceptionReporterFilter


class SecretsFilter(SafeExceptionReporterFilter):
    """Hides, beside what Django does, the addresses that people and machines are reached at."""

    hidden_settings = re.compile(
        f"{SafeExceptionReporterFilter.hidden_settings.pattern}|NOTIFY|REDIS|CHANNEL_LAYERS|_BACKENDS",
        flags=re.IGNORECASE,
    )
