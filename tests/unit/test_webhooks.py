"""Events, URLs, secrets and signatures of webhooks."""

import base64
import datetime as dt
import inspect
import re

import pytest
from standardwebhooks import Webhook

from jobgroups.domain import webhooks
from jobgroups.domain.clock import now
from jobgroups.domain.shapes import events as shapes
from jobgroups.events import log


def test_events_are_those_of_the_log() -> None:
    source = inspect.getsource(log)
    made = set(re.findall(r'NewEvent\("(\w+)"', source))
    made |= {
        shapes.type_of(getattr(shapes, name))
        for name in re.findall(r"_(?:new|of_child)\(\s*shapes\.(\w+)", source)
    }
    assert sorted(made) == sorted(webhooks.EVENTS)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://studio.example/hooks/1?token=a%20b", ""),
        ("http://[2001:db8::1]:8080/", ""),
        ("ftp://studio.example/", "begins with http"),
        ("studio.example", "begins with http"),
        ("https://", "begins with http"),
        ("https://studio.example:0/", "begins with http"),
        ("https://studio.example:x/", "Is not a URL"),
        ("http://[::1", "Is not a URL"),
        ("https://studio.example/a b", "without blanks"),
        ("https://stüdio.example/", "in ASCII"),
        ("https://ann:hunter22@studio.example/", "no user name"),
        ("https://studio.example/#a", "fragment"),
        ("https://studio.example\\@10.0.0.1/", "begins with http"),
        ("https://studio.example" * 50, "at most 1000"),
    ],
)
def test_url_of_a_webhook_is_checked(url: str, problem: str) -> None:
    found = webhooks.url_problem(url)
    assert bool(found) is bool(problem)
    assert problem in found


def test_message_has_a_signature_of_each_secret() -> None:
    secrets = [webhooks.secret_of(bytes([number]) * 32) for number in (1, 2)]
    body = webhooks.message_body(
        "child_failed", "2026-02-01T07:00:00.000Z", "jg_1", '{"error":"Ü"}'
    )
    headers = webhooks.signed_headers("msg_1", body, secrets, now())
    for secret in secrets:
        assert Webhook(secret).verify(body.encode(), headers)["data"] == {"error": "Ü"}
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(webhooks.secret_of(bytes(32))).verify(body, headers)


@pytest.mark.parametrize("size", [23, 24, 64, 65])
def test_secret_has_24_to_64_bytes(size: int) -> None:
    secret = webhooks.secret_of(bytes(size))
    for text in (secret, secret.rstrip("="), base64.b64encode(bytes(size)).decode()):
        if size in range(24, 65) and text.startswith("whsec_"):
            assert webhooks.key_of(text) == bytes(size)
        else:
            with pytest.raises(ValueError, match="24 to 64 bytes"):
                webhooks.key_of(text)


def test_retry_after_is_a_number_or_a_date() -> None:
    moment = dt.datetime(2026, 2, 1, 7, tzinfo=dt.UTC)
    texts = ["120", "Sun, 01 Feb 2026 07:01:00 GMT", "soon", "", "-5", "1e9"]
    assert [webhooks.retry_after(text, moment) for text in texts] == [120, 60, 0, 0, 0, 0]
