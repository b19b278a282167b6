"""Webhooks: their events, URLs, secrets, signatures (Standard Webhooks) and answers. Pure."""

import base64
import binascii
import datetime as dt
import hashlib
import hmac
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

#: The ends of jobs and of the group, which a webhook gets by default.
ENDS: Final = (
    "child_completed",
    "child_failed",
    "child_timeout",
    "child_cancelled",
    "group_complete",
)
#: All event types of ``events.log``.
EVENTS: Final = (
    *(
        "group_created",
        "group_started",
        "group_reopened",
        "child_started",
        "child_requeued",
        "child_retrying",
    ),
    *ENDS,
)
TEST: Final = "test"  #: The type of a test message.
MAX_URL: Final = 1000
GONE: Final = 410  #: The status by which a target refuses all later events of a group.
_PREFIX: Final = "whsec_"
_KEY_BYTES: Final = range(24, 65)  #: As Standard Webhooks requires.


@dataclass(frozen=True, slots=True)
class WebhookAnswer:
    status: int | None = None  #: None: no answer came.
    error: str = ""  #: A sentence; empty: the message is delivered.
    retry_after: float = 0.0  #: Seconds before which the target wants no other request.
    text: str = ""  #: The beginning of the answer's body.


def key_of(secret: str) -> bytes:
    """Return the key in ``whsec_…``; raise ``ValueError`` if it is not Base64 of 24 to 64 bytes."""
    text = secret.removeprefix(_PREFIX).rstrip("=")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(_PREFIX) or len(key) not in _KEY_BYTES:
        raise ValueError("A secret must be whsec_ and 24 to 64 bytes in Base64.")
    return key


def secret_of(key: bytes) -> str:
    return _PREFIX + base64.b64encode(key).decode("ascii")


def url_problem(url: str) -> str:
    """Return what is wrong with the URL of a webhook, empty if nothing is. Its host is not
    resolved.
    """
    try:
        parts = urlsplit(url)
        is_web = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return "Is not a URL."
    if not is_web or not re.fullmatch(r"[\x21-\x7e]+", url) or "\\" in url:
        return "Must be a URL that begins with http:// or https://, in ASCII and without blanks."
    if parts.username is not None or parts.password is not None or parts.fragment:
        return "Must have no user name, password or fragment: the signature proves who sends."
    return "" if len(url) <= MAX_URL else f"Must have at most {MAX_URL} characters."


def webhooks_of(
    own: Mapping[str, Any] | None, urls: Iterable[str], events: Collection[str]
) -> dict[str, Collection[str]]:
    """Return the events that each URL gets of a group: its own webhook, and those of the
    installation.
    """
    events_by_url = dict.fromkeys(urls, events)
    if own is not None:
        events_by_url[own["url"]] = {*own["events"], *events_by_url.get(own["url"], ())}
    return events_by_url


def message_body(kind: str, moment: str, group_id: str, frame: str) -> str:
    """Return the body of a message; ``frame`` is JSON text. Events of jobs do not name their group."""
    return f'{{"type":"{kind}","timestamp":"{moment}","job_group_id":"{group_id}","data":{frame}}}'


def signed_headers(
    message_id: str, body: str, secrets: Iterable[str], moment: dt.datetime
) -> dict[str, str]:
    """Return the headers of a message that is sent now, with a signature for each secret."""
    seconds = str(int(moment.timestamp()))
    signed = f"{message_id}.{seconds}.{body}".encode()
    digests = [hmac.digest(key_of(secret), signed, hashlib.sha256) for secret in secrets]
    signatures = " ".join(f"v1,{base64.b64encode(digest).decode('ascii')}" for digest in digests)
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": seconds,
        "webhook-signature": signatures,
    }


def retry_after(text: str, moment: dt.datetime) -> float:
    """Return the seconds of a ``Retry-After`` header: a number or a date; 0 for another text."""
    if re.fullmatch(r"[0-9]{1,9}", text.strip()):
        return float(text)
    try:
        return (parsedate_to_datetime(text).astimezone(dt.UTC) - moment).total_seconds()
    except (ValueError, OverflowError):
        return 0.0
