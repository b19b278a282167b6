"""``DIRECTOR_DEBUG`` shows settings, and of those that hold passwords only that they are there."""

from __future__ import annotations

import sys

import pytest
from django.test import RequestFactory
from django.views.debug import technical_500_response
from pytest_django import Settings

SECRET = "correct-" + "horse-battery"


@pytest.mark.parametrize("accept", ["text/html", "text/plain"])
def test_no_password_stands_on_a_debug_page(settings: Settings, accept: str) -> None:
    settings.DIRECTOR_NOTIFY = [f"json://ann:{SECRET}@services.example/"]
    settings.DIRECTOR_REDIS_URL = f"redis://:{SECRET}@redis.example:6379/0"
    settings.CHANNEL_LAYERS = {"default": {"CONFIG": {"hosts": [settings.DIRECTOR_REDIS_URL]}}}
    settings.DIRECTOR_BACKENDS = [f"http://ann:{SECRET}@gpu.example:8188"]
    settings.DIRECTOR_TOKEN = settings.SECRET_KEY = SECRET
    request = RequestFactory().get("/", headers={"host": "localhost", "accept": accept})
    try:
        raise RuntimeError("a defect")
    except RuntimeError:
        page = technical_500_response(request, *sys.exc_info()).content.decode()
    assert "DIRECTOR_NOTIFY" in page
    assert SECRET not in page
