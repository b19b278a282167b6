"""All settings of the Director, and the only module that reads the environment.

No setting is required: the default is one command, SQLite in the data folder, loopback only.
``docs/settings.md`` describes each ``DIRECTOR_…`` variable.
"""

import datetime as dt
import importlib.util
import ipaddress
import os
import re
import secrets
import shutil
import tomllib
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import environ
import platformdirs
from django.core.exceptions import ImproperlyConfigured

from backends.node_paths import parse_routes
from director import __version__
from jobgroups.domain import webhooks

BASE_DIR = Path(__file__).resolve().parent.parent


class _Environment(environ.Env):  # type: ignore[misc]  # environ has no types
    """Records the variables that are read: these are the settings."""

    read: set[str] = set()

    def get_value(self, var: str, *args: Any, **kwargs: Any) -> Any:
        self.read.add(var)
        return super().get_value(var, *args, **kwargs)


env = _Environment()
Number = TypeVar("Number", int, float)

# --- helpers ------------------------------------------------------------------------------------


def _text(name: str, pattern: str = "", rule: str = "") -> str:
    """Read a text without blanks at its ends. If it does not match a pattern, the error has the
    rule, not the text.
    """
    text = str(env.str(name, default="")).strip()
    if text and pattern and not re.fullmatch(pattern, text):
        raise ImproperlyConfigured(f"{name} {rule}.")
    return text


def _address(name: str) -> str:
    """Read a public address, without a slash at its end."""
    address = _text(name).rstrip("/")
    if address and not re.fullmatch(r"https?://[^?#\s]+", address):
        raise ImproperlyConfigured(f"{name} is {address!r}; write it as http://host:port.")
    return address


def _flag(name: str, default: bool) -> bool:
    """Read a switch; a value other than the usual words for yes and no is an error."""
    value = _text(name).lower()
    if value in ("", "1", "true", "yes", "on", "0", "false", "no", "off"):
        return default if value == "" else value in ("1", "true", "yes", "on")
    raise ImproperlyConfigured(f"{name} is {value!r}; use 1 (on) or 0 (off).")


def _number(name: str, kind: type[Number], default: Number, low: float, high: float) -> Number:
    """Read a number within ``low`` … ``high``."""
    if not (text := _text(name)):
        return default
    try:
        value = kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise ImproperlyConfigured(f"{name} is {text!r}; it must be {what}.") from None
    if not low <= value <= high:
        raise ImproperlyConfigured(f"{name} is {text}; it must be between {low:g} and {high:g}.")
    return value


def _one_of(name: str, meanings: dict[str, str], default: str) -> str:
    """Read one of several words, and return the value that it stands for."""
    word = _text(name).lower() or default
    if word not in meanings:
        raise ImproperlyConfigured(f"{name} is {word!r}; use one of {', '.join(meanings)}.")
    return meanings[word]


def _words(name: str, pattern: str = "", advice: str = "") -> list[str]:
    """Read a comma-separated list without empty items; every item must match a pattern."""
    words = [word.strip() for word in _text(name).split(",") if word.strip()]
    for word in words:
        if pattern and not re.fullmatch(pattern, word):
            raise ImproperlyConfigured(f"{name} has {word!r}; {advice}.")
    return words


def _urls(name: str) -> list[str]:
    """Read URLs separated by blanks or commas, which a URL may also contain.

    Errors do not quote the value: such a URL contains a password.
    """
    text = _text(name)
    urls = re.split(r"[\s,]+(?=[A-Za-z][A-Za-z0-9]*://)", text) if text else []
    for number, url in enumerate(urls, start=1):
        if not re.match(r"[A-Za-z][A-Za-z0-9]*://[^\s]", url):
            raise ImproperlyConfigured(
                f"Entry {number} of {name} is not a URL; write each as service://…, separated by "
                "commas."
            )
    return [url.strip(" ,") for url in urls]


# --- the data folder ------------------------------------------------------------------------------

DIRECTOR_VERSION = __version__
DIRECTOR_DATA_DIR = Path(
    _text("DIRECTOR_DATA_DIR") or platformdirs.user_data_path("comfyui-director", appauthor=False)
)
DIRECTOR_DATA_DIR = DIRECTOR_DATA_DIR.expanduser().absolute()

#: Written once by ``director.server.data_dir.prepare``, not here; readable by its owner only.
DIRECTOR_SECRET_KEY_FILE = DIRECTOR_DATA_DIR / "secret-key"


DIRECTOR_WEBHOOK_SECRET_FILE = DIRECTOR_DATA_DIR / "webhook-secret"  #: Likewise.


def _keep_secret(path: Path, new: str) -> str:
    """Return the secret in the data folder, else the new one for this process."""
    try:
        kept = path.read_text(encoding="ascii").strip()
    except OSError:
        kept = ""
    return kept or new


def _secret_key() -> str:
    """Return the configured key, else the key in the data folder, else a new key for this process."""
    given = _text("DIRECTOR_SECRET_KEY", r"(?s:.{32,})", "must have at least 32 characters")
    return given or _keep_secret(DIRECTOR_SECRET_KEY_FILE, secrets.token_urlsafe(50))


SECRET_KEY = _secret_key()
DEBUG = _flag("DIRECTOR_DEBUG", default=False)
DEFAULT_EXCEPTION_REPORTER_FILTER = "director.security.debug_filter.SecretsFilter"

# --- access ----------------------------------------------------------------------------------

LOOPBACK_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
DIRECTOR_ALLOWED_HOSTS = _words(
    "DIRECTOR_ALLOWED_HOSTS",
    r"\*|[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]",
    "write host names only, without http:// and port",
)
ALLOWED_HOSTS = [*LOOPBACK_HOSTS, *DIRECTOR_ALLOWED_HOSTS]
#: Origins of pages that may use the API and the sockets, in addition to loopback pages.
_origins = _words(
    "DIRECTOR_ALLOWED_ORIGINS", r"https?://[^/?#\s]+/*", "write each as http://host:port"
)
DIRECTOR_ALLOWED_ORIGINS = [word.rstrip("/") for word in _origins]
CSRF_TRUSTED_ORIGINS = list(DIRECTOR_ALLOWED_ORIGINS)
#: Addresses of trusted proxies: the client is the one that ``X-Forwarded-For`` names.
DIRECTOR_TRUSTED_PROXIES = _words("DIRECTOR_TRUSTED_PROXIES")
for _proxy in DIRECTOR_TRUSTED_PROXIES:
    try:
        ipaddress.ip_address(_proxy)
    except ValueError:
        raise ImproperlyConfigured(
            f"DIRECTOR_TRUSTED_PROXIES has {_proxy!r}; write each as an address, like 127.0.0.1."
        ) from None
#: Absolute links have the client's scheme. The header counts from every client: it changes its own
#: answers alone.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if DIRECTOR_TRUSTED_PROXIES else None

#: API key of Comfy.org, sent with prompts that have partner nodes, to backends that a user
#: confirmed. Never shown: without the characters that JSON escapes it is found in what ComfyUI
#: answers.
DIRECTOR_COMFY_ORG_API_KEY = _text(
    "DIRECTOR_COMFY_ORG_API_KEY",
    r"[A-Za-z0-9._~+=-]{16,512}",
    "must have 16 to 512 letters, digits and some of . _ ~ + = -",
)

#: Shared secret of programs and users. Empty: no sign-in.
DIRECTOR_TOKEN = _text(
    "DIRECTOR_TOKEN",
    r"[\x21-\x7e]{16,512}",
    "must have 16 to 512 letters, digits and signs, without blanks",
)

#: People and tokens with roles and scopes, instead of the one secret.
_PEOPLE = "viewer|artist|operator|administrator"
_PEOPLE_RULE = "must be viewer, artist, operator or administrator"
DIRECTOR_ACCOUNTS = _flag("DIRECTOR_ACCOUNTS", default=False)
if DIRECTOR_ACCOUNTS and DIRECTOR_TOKEN:
    raise ImproperlyConfigured(
        "DIRECTOR_ACCOUNTS and DIRECTOR_TOKEN are both set. With accounts each program has a "
        "token of its own:"
        " remove DIRECTOR_TOKEN, and make tokens by `manage.py tokens create`."
    )

#: Whether people see their own work alone; operators and administrators see all.
DIRECTOR_PRIVATE = _flag("DIRECTOR_PRIVATE", default=False)
if DIRECTOR_PRIVATE and not DIRECTOR_ACCOUNTS:
    raise ImproperlyConfigured(
        "DIRECTOR_PRIVATE needs accounts, by which it is known whose a group is: set "
        "DIRECTOR_ACCOUNTS=1 too, or remove DIRECTOR_PRIVATE."
    )

# --- sign-in by a provider of OpenID Connect (director.security.oidc) ---------------------------

DIRECTOR_OIDC_ISSUER = _text("DIRECTOR_OIDC_ISSUER", r"https?://\S+", "must be an address").rstrip(
    "/"
)
#: What the button of the sign-in page calls it.
DIRECTOR_OIDC_NAME = _text("DIRECTOR_OIDC_NAME") or "OpenID Connect"
DIRECTOR_OIDC_CLIENT_ID = _text("DIRECTOR_OIDC_CLIENT_ID")
DIRECTOR_OIDC_CLIENT_SECRET = _text("DIRECTOR_OIDC_CLIENT_SECRET")
#: Who may sign in: domains of verified addresses, and ``claim=value``.
DIRECTOR_OIDC_ALLOW = _words("DIRECTOR_OIDC_ALLOW")
#: ``value=role`` for values of the claim, which is read at each sign-in; without them roles stay.
DIRECTOR_OIDC_ROLE_CLAIM = _text("DIRECTOR_OIDC_ROLE_CLAIM") or "groups"
DIRECTOR_OIDC_ROLES = _words("DIRECTOR_OIDC_ROLES")
DIRECTOR_OIDC_DEFAULT_ROLE = (
    _text("DIRECTOR_OIDC_DEFAULT_ROLE", f"(?:{_PEOPLE})", _PEOPLE_RULE) or "viewer"
)
if any(not re.fullmatch(f".+=(?:{_PEOPLE})", entry) for entry in DIRECTOR_OIDC_ROLES):
    raise ImproperlyConfigured(
        f"Each value of DIRECTOR_OIDC_ROLES is value=role; a role {_PEOPLE_RULE}."
    )
if DIRECTOR_OIDC_ISSUER:
    for _name in ("DIRECTOR_ACCOUNTS", "DIRECTOR_OIDC_CLIENT_ID", "DIRECTOR_OIDC_ALLOW"):
        if not globals()[_name]:
            raise ImproperlyConfigured(f"DIRECTOR_OIDC_ISSUER needs {_name}; see docs/accounts.md.")
    if importlib.util.find_spec("allauth") is None:
        raise ImproperlyConfigured(
            "DIRECTOR_OIDC_ISSUER needs the package django-allauth. In the folder of the source: "
            "pip install '.[oidc]'."
        )

# --- backends, jobs and limits ----------------------------------------------------------------

#: Backends that are registered at start if they are missing: ``host:port`` or a URL each.
DIRECTOR_BACKENDS = _words("DIRECTOR_BACKENDS")
#: Search for ComfyUIs on this machine's ports 8188–8199.
DIRECTOR_DISCOVER = _flag("DIRECTOR_DISCOVER", default=True)
DIRECTOR_DISCOVER_PORTS = range(8188, 8200)
#: Port at which the Director answers as one ComfyUI; ``serve`` sets that of ``--comfyui-port``. 0:
#: there is none.
DIRECTOR_COMFYUI_PORT = _number("DIRECTOR_COMFYUI_PORT", int, 0, 1, 65_535)
#: Port of the pages; ``serve`` sets it.
DIRECTOR_PORT = 0
#: Public address of the ComfyUI listener, if it is not that port of the Director's host; without a
#: slash at its end.
DIRECTOR_COMFYUI_URL = _address("DIRECTOR_COMFYUI_URL")
#: The backends that answer routes of custom nodes at the ComfyUI listener, by the routes.
try:
    DIRECTOR_COMFYUI_ROUTES = parse_routes(_words("DIRECTOR_COMFYUI_ROUTES"))
except ValueError as error:
    raise ImproperlyConfigured(f"DIRECTOR_COMFYUI_ROUTES: {error}.") from None
#: Whether backends may have link-local addresses, where a cloud's metadata service is.
DIRECTOR_ALLOW_LINK_LOCAL = _flag("DIRECTOR_ALLOW_LINK_LOCAL", default=False)
#: Prompts in the queue of one ComfyUI: one runs, one is pending so that the GPU is never idle.
DIRECTOR_DEPTH = _number("DIRECTOR_DEPTH", int, 2, 1, 16)
#: A queued child fails if its backend was unreachable for this long without interruption.
DIRECTOR_GIVE_UP_SECONDS = _number("DIRECTOR_GIVE_UP_SECONDS", int, 600, 5, 86_400)
#: Whether submitters share the farm by their use and weights; else the order is first come, first
#: served within a level.
DIRECTOR_FAIR_SHARE = _flag("DIRECTOR_FAIR_SHARE", True)
#: Seconds after which what a submitter has used of the farm counts half.
DIRECTOR_SHARE_HALF_LIFE = _number("DIRECTOR_SHARE_HALF_LIFE", int, 3600, 60, 2_592_000)
#: Requests that a token of an account may send within a minute to one process; 0: any number.
DIRECTOR_REQUESTS_PER_MINUTE = _number("DIRECTOR_REQUESTS_PER_MINUTE", int, 0, 0, 1_000_000)
#: A waiting group rises by one level after so many minutes; 0: it does not.
DIRECTOR_AGING_MINUTES = _number("DIRECTOR_AGING_MINUTES", float, 10.0, 0.0, 43_200.0)
#: A child that has not started times out after this long.
DIRECTOR_QUEUED_LIMIT_SECONDS = _number("DIRECTOR_QUEUED_LIMIT_SECONDS", int, 86_400, 60, 2_592_000)
#: Retry policy of submissions without one: counted attempts of a child within a run,
DIRECTOR_MAX_ATTEMPTS = _number("DIRECTOR_MAX_ATTEMPTS", int, 1, 1, 10)
#: on which other backends (``never``, ``group``, ``any``),
DIRECTOR_RETRY_ELSEWHERE = _one_of(
    "DIRECTOR_RETRY_ELSEWHERE", {"0": "never", "group": "group", "any": "any"}, "0"
)
#: and the delay, doubled with each attempt.
DIRECTOR_RETRY_BACKOFF_SECONDS = _number("DIRECTOR_RETRY_BACKOFF_SECONDS", float, 2, 0, 60)
#: Children of a backend that was offline for this long move to another one if their group allows
#: it.
DIRECTOR_MOVE_AFTER_SECONDS = _number("DIRECTOR_MOVE_AFTER_SECONDS", int, 60, 1, 86_400)
#: This many failures that count against a backend, within so many minutes, quarantine it; 0: never.
DIRECTOR_QUARANTINE_FAILURES = _number("DIRECTOR_QUARANTINE_FAILURES", int, 3, 0, 1_000)
DIRECTOR_QUARANTINE_MINUTES = _number("DIRECTOR_QUARANTINE_MINUTES", float, 10, 0.01, 1_440)
#: Duration of the first quarantine; each consecutive one lasts twice as long, at most four hours.
DIRECTOR_QUARANTINE_FORGIVE_MINUTES = _number(
    "DIRECTOR_QUARANTINE_FORGIVE_MINUTES", float, 10, 0.01, 240
)
DIRECTOR_MAX_CHILDREN = _number("DIRECTOR_MAX_CHILDREN", int, 1_000, 1, 10_000)
DIRECTOR_MAX_BODY_BYTES = _number("DIRECTOR_MAX_BODY_BYTES", int, 16 * 2**20, 2**10, 2**28)
DIRECTOR_MAX_METADATA_BYTES = 16 * 2**10
#: Maximum size of a response of a backend (its history contains whole workflows).
DIRECTOR_MAX_ANSWER_BYTES = _number("DIRECTOR_MAX_ANSWER_BYTES", int, 64 * 2**20, 2**16, 2**30)
#: ComfyUI writes the ids of the job into its PNGs.
DIRECTOR_MARK_OUTPUTS = _flag("DIRECTOR_MARK_OUTPUTS", default=True)
#: Clients are redirected to the backend for larger outputs; they may not reach it.
DIRECTOR_PROXY_MAX_BYTES = _number("DIRECTOR_PROXY_MAX_BYTES", int, 64 * 2**20, 2**16, 2**34)
#: Maximum size of all thumbnails in the data folder.
DIRECTOR_THUMBNAILS_BYTES = _number("DIRECTOR_THUMBNAILS_BYTES", int, 512 * 2**20, 2**20, 2**40)
DIRECTOR_THUMBNAILS_DIR = DIRECTOR_DATA_DIR / "thumbnails"
#: Makes the posters of videos; None: it is not installed.
FFMPEG = shutil.which("ffmpeg")
#: Folder of assets and captured outputs, and of files that are being received. Web processes and
#: runners on several machines need one that they share, or a bucket.
DIRECTOR_FILES_DIR = Path(_text("DIRECTOR_FILES_DIR") or DIRECTOR_DATA_DIR / "files")
DIRECTOR_FILES_DIR = DIRECTOR_FILES_DIR.expanduser().absolute()


def _files() -> dict[str, Any]:
    """Return the storage of assets and captured outputs: that folder, or a bucket."""
    text = _text("DIRECTOR_FILES_STORAGE")
    if not text:
        return {
            "BACKEND": "django.core.files.storage.FileSystemStorage",
            "OPTIONS": {"location": DIRECTOR_FILES_DIR},
        }
    url = urlsplit(text)
    options = dict(parse_qsl(url.query))
    names = {"endpoint_url", "region_name"}
    if (
        url.scheme != "s3"
        or not re.fullmatch(r"[a-z0-9][a-z0-9.-]+", url.netloc)
        or options.keys() - names
    ):
        raise ImproperlyConfigured(
            "DIRECTOR_FILES_STORAGE must look like "
            "s3://bucket/prefix?endpoint_url=https://host:port&region_name=name."
            " Keys are in variables of their own (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)."
        )
    if not importlib.util.find_spec("storages"):
        raise ImproperlyConfigured(
            "DIRECTOR_FILES_STORAGE needs more packages. In the folder of the source: "
            "pip install '.[s3]'."
        )
    options |= {"bucket_name": url.netloc, "location": url.path.strip("/")}
    return {"BACKEND": "jobgroups.services.bucket.Bucket", "OPTIONS": options}


DIRECTOR_MAX_ASSET_BYTES = _number("DIRECTOR_MAX_ASSET_BYTES", int, 20 * 2**30, 2**10, 2**44)
#: Assets that were not used for so many days are deleted; 0: never.
DIRECTOR_ASSET_DAYS = _number("DIRECTOR_ASSET_DAYS", int, 0, 0, 36_500)
#: Ended groups are deleted after so many days, beyond so many groups that ended later, or while
#: their captured files have more bytes; 0: never.
DIRECTOR_RETENTION_DAYS = _number("DIRECTOR_RETENTION_DAYS", int, 0, 0, 36_500)
DIRECTOR_RETENTION_GROUPS = _number("DIRECTOR_RETENTION_GROUPS", int, 0, 0, 10**9)
DIRECTOR_RETENTION_BYTES = _number("DIRECTOR_RETENTION_BYTES", int, 0, 0, 2**60)
#: The record of who did what is kept for so many days; 0: for ever.
DIRECTOR_AUDIT_DAYS = _number("DIRECTOR_AUDIT_DAYS", int, 365, 0, 36_500)
#: Copy the outputs of completed jobs into that storage.
DIRECTOR_CAPTURE = _flag("DIRECTOR_CAPTURE", default=True)
#: Bound of the address space of a process of ``files``; 0: none. It begins with 700 MiB, and each
#: thread of an upload to a bucket may take 72 MiB.
DIRECTOR_FILES_MEMORY_BYTES = _number("DIRECTOR_FILES_MEMORY_BYTES", int, 2**32, 0, 2**50)
#: While less of the disk of that folder is free, outputs are not copied and uploads are refused.
DIRECTOR_MIN_FREE_BYTES = _number("DIRECTOR_MIN_FREE_BYTES", int, 2 * 2**30, 0, 2**50)
#: Accept groups (as ``pending``) while no runner is alive, instead of answering 503.
DIRECTOR_ACCEPT_WITHOUT_RUNNER = _flag("DIRECTOR_ACCEPT_WITHOUT_RUNNER", default=False)
#: Factor for every interval of the runner; for tests.
DIRECTOR_TIME_SCALE = _number("DIRECTOR_TIME_SCALE", float, 1.0, 0.01, 10.0)

# --- notifications
# -----------------------------------------------------------------------------------

#: Public address of the pages, for links in notices; without a slash at its end.
DIRECTOR_PUBLIC_URL = _address("DIRECTOR_PUBLIC_URL")
#: Notification services, as URLs of apprise. They contain passwords and are never shown.
DIRECTOR_NOTIFY = _urls("DIRECTOR_NOTIFY")
_KINDS = ["group_ended", "backend_trouble", "queue_empty"]  #: Kinds of notices.
DIRECTOR_NOTIFY_ON = (
    _words("DIRECTOR_NOTIFY_ON", "|".join(_KINDS), f"known are {', '.join(_KINDS)}") or _KINDS
)

# --- webhooks
# ----------------------------------------------------------------------------------------

#: Webhooks that get events of every group, and these events. Their URLs may contain tokens.
DIRECTOR_WEBHOOK_URLS = _urls("DIRECTOR_WEBHOOK_URLS")
for _place, _url in enumerate(DIRECTOR_WEBHOOK_URLS, start=1):
    if _wrong := webhooks.url_problem(_url):
        raise ImproperlyConfigured(f"Entry {_place} of DIRECTOR_WEBHOOK_URLS: {_wrong}")
DIRECTOR_WEBHOOK_EVENTS = _words(
    "DIRECTOR_WEBHOOK_EVENTS", "|".join(webhooks.EVENTS), f"known are {', '.join(webhooks.EVENTS)}"
) or list(webhooks.ENDS)
#: Keys of the signatures: each message has one of each, so that a key can be replaced.
DIRECTOR_WEBHOOK_SECRETS = (
    _text("DIRECTOR_WEBHOOK_SECRET")
    or _keep_secret(DIRECTOR_WEBHOOK_SECRET_FILE, webhooks.secret_of(secrets.token_bytes(32)))
).split()
for _place, _secret in enumerate(DIRECTOR_WEBHOOK_SECRETS, start=1):
    try:
        webhooks.key_of(_secret)
    except ValueError as _error:
        raise ImproperlyConfigured(f"Entry {_place} of DIRECTOR_WEBHOOK_SECRET: {_error}") from None
#: Whether webhooks may have private, loopback and other addresses that are not public.
DIRECTOR_WEBHOOK_PRIVATE_ADDRESSES = _flag("DIRECTOR_WEBHOOK_PRIVATE_ADDRESSES", default=False)

# --- the database ---------------------------------------------------------------------------------


def _sqlite(path: str) -> dict[str, Any]:
    """Return the options for SQLite: WAL, every commit synced, writers queue instead of failing.

    FULL: with NORMAL a power cut loses commits, and a prompt whose intent is lost runs twice.
    IMMEDIATE: a transaction that reads and then writes fails with "database is locked" regardless
    of the timeout. Only the progress writer lowers ``synchronous``, on its own connection.
    """
    return {
        "ENGINE": "jobgroups.database.sqlite3",
        "NAME": path,
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": (
                "PRAGMA journal_mode=WAL;PRAGMA synchronous=FULL;PRAGMA cache_size=-20000;"
                "PRAGMA journal_size_limit=27103364;"
            ),
        },
    }


def _database() -> dict[str, Any]:
    url = _text("DIRECTOR_DATABASE_URL")
    if not url:
        return _sqlite(str(DIRECTOR_DATA_DIR / "director.sqlite3"))
    scheme = url.split(":", 1)[0]
    if scheme == "sqlite":
        return _sqlite(str(environ.Env.db_url_config(url)["NAME"]))
    if scheme not in ("postgres", "postgresql"):
        raise ImproperlyConfigured(
            f"DIRECTOR_DATABASE_URL starts with {scheme!r}; use postgres://user@host/name or "
            "sqlite:////folder/file.sqlite3."
        )
    config = dict(environ.Env.db_url_config(url))
    # Under ASGI each request may have its own thread: persistent connections would leak. A pool
    # does not, and is twice as fast.
    config["CONN_MAX_AGE"] = 0
    given = config.get("OPTIONS", {})
    config["OPTIONS"] = {
        # A lost server is detected within 30 s instead of the system's two hours: by keepalives on
        # an idle connection, by the timeout on one with unacknowledged data.
        "connect_timeout": 5,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 25_000,
        **given,
        # A suspended process would keep its rows locked: PostgreSQL ends its transaction before its
        # leases end. The process retries. Another program may hold a row or a table for longer
        # (VACUUM FULL): a request is answered then.
        "options": (
            "-c idle_in_transaction_session_timeout=8s -c lock_timeout=5s "
            f"{given.get('options', '')}"
        ).strip(),
        # While the server is unavailable, requests fail after 4 s instead of 30 s: before a
        # submission gives up, which would then blame the load. The pauses between attempts to
        # connect double until the timeout: with the default of 300 s, minutes pass until the web
        # uses the server again.
        "pool": {"min_size": 2, "max_size": 20, "timeout": 4.0, "reconnect_timeout": 2.0},
    }
    return config


DATABASES = {"default": _database()}
DIRECTOR_ON_SQLITE = DATABASES["default"]["ENGINE"].endswith("sqlite3")
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- the channel layer
# ---------------------------------------------------------------------------------

DIRECTOR_REDIS_URL = _text(
    "DIRECTOR_REDIS_URL", r"(?s:(redis|rediss|unix):.*)", "must look like redis://host:6379/0"
)
# Without Redis the hub works within one process, and between those of ``serve``, which set a layer
# of their own. The in-memory layer drops the newest messages of a burst. The core Redis layer loses
# messages under load.
CHANNEL_LAYERS: dict[str, Any] = (
    {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {
                # redis-py 8 ends idle connections after 5 s by default.
                "hosts": [{"address": DIRECTOR_REDIS_URL, "socket_timeout": None}],
                "prefix": str(env.str("DIRECTOR_REDIS_PREFIX", default="director")),
            },
        }
    }
    if DIRECTOR_REDIS_URL
    else {}
)

# --- Django ---------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "director.apps.DirectorConfig",  # before the admin, some of whose templates it extends
    "director.apps.DirectorAdminConfig",
    "director.accounts",
    "axes",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular_sidecar",
    "jobgroups",
    "backends",
]
MIDDLEWARE = [
    "director.web.errors.EnvelopeMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "director.web.static.StaticMiddleware",
    "director.security.csp.CspMiddleware",
    "director.security.origins.OriginMiddleware",
    "director.web.errors.JsonErrorMiddleware",
    "director.security.sign_in.SignInMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]
if DIRECTOR_OIDC_ISSUER:
    INSTALLED_APPS += [
        "allauth",
        "allauth.account",
        "allauth.socialaccount",
        "allauth.socialaccount.providers.openid_connect",
    ]
    MIDDLEWARE.append("allauth.account.middleware.AccountMiddleware")
#: The part of them for the API: see ``director.web.handlers``.
DIRECTOR_API_MIDDLEWARE = [
    name
    for name in MIDDLEWARE
    if not name.startswith(
        ("director.web.static.", "django.contrib.", "django.middleware.csrf.", "axes.", "allauth.")
    )
]
ROOT_URLCONF = "director.urls"
ASGI_APPLICATION = "director.asgi.application"
APPEND_SLASH = False
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        # For a source tree. When installed, the templates are in ``director``, where Django finds
        # them, and a folder of this name beside it belongs to another package.
        "DIRS": [BASE_DIR / "templates"] if (BASE_DIR / "manage.py").exists() else [],
        "APP_DIRS": True,
        "OPTIONS": {
            "builtins": ["django.templatetags.static", "director.pages.text"],
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
STATIC_URL = "/static/"
STATIC_ROOT = DIRECTOR_DATA_DIR / "static"
# Files are served from their packages: ``collectstatic`` is not needed.
SERVESTATIC_USE_FINDERS = True
SERVESTATIC_AUTOREFRESH = False
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "files": _files(),
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
DATA_UPLOAD_MAX_MEMORY_SIZE = DIRECTOR_MAX_BODY_BYTES
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "CommonPasswordValidator")
] + [
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 10},
    }
]
# Ten wrong passwords for an account, or from an address, refuse all others for a minute, in every
# process.
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = dt.timedelta(minutes=1)
AXES_LOCKOUT_PARAMETERS = ["username", "ip_address"]
AXES_CLIENT_IP_CALLABLE = "director.security.passwords.client_network"
AXES_LOCKOUT_CALLABLE = "director.security.passwords.locked_out"
AXES_RESET_ON_SUCCESS = True
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_DISABLE_ACCESS_LOG = True
AXES_VERBOSE = False
# It stores the fields of forms with wrong passwords, without these: the page of a new password has three.
AXES_SENSITIVE_PARAMETERS = ["username", "ip_address", "present", "again"]
SOCIALACCOUNT_ADAPTER = "director.security.oidc.Adapter"
# The sign-in page has a link: its policy (form-action) forbids a form that leads to another host.
SOCIALACCOUNT_LOGIN_ON_GET = True
SOCIALACCOUNT_EMAIL_AUTHENTICATION = False
SOCIALACCOUNT_STORE_TOKENS = False
SOCIALACCOUNT_PROVIDERS = {
    "openid_connect": {
        "OAUTH_PKCE_ENABLED": True,
        "APPS": [
            {
                "provider_id": "oidc",
                "name": DIRECTOR_OIDC_NAME,
                "client_id": DIRECTOR_OIDC_CLIENT_ID,
                "secret": DIRECTOR_OIDC_CLIENT_SECRET,
                "settings": {"server_url": DIRECTOR_OIDC_ISSUER},
            }
        ],
    }
}
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
# `check --deploy` requires HTTPS; the Director serves plain HTTP on loopback, and in a farm a proxy
# ends TLS.
SILENCED_SYSTEM_CHECKS = [
    "security.W004",  # HSTS is the proxy's
    "security.W008",  # SSL redirect is the proxy's
    "security.W012",  # secure session cookie: plain HTTP on loopback
    "security.W016",  # secure CSRF cookie: plain HTTP on loopback
]

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],  # the API reads no cookie
    "DEFAULT_PERMISSION_CLASSES": [],
    "UNAUTHENTICATED_USER": None,
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": [],  # jobgroups.api.requests.body reads the body
    "EXCEPTION_HANDLER": "director.web.errors.exception_handler",
}

DIRECTOR_LOG_LEVEL = str(env.str("DIRECTOR_LOG_LEVEL", default="INFO")).strip().upper()
if DIRECTOR_LOG_LEVEL not in ("DEBUG", "INFO", "WARNING", "ERROR"):
    raise ImproperlyConfigured("DIRECTOR_LOG_LEVEL must be DEBUG, INFO, WARNING or ERROR.")
LOGGING = tomllib.loads(Path(__file__).with_name("logging.toml").read_text(encoding="utf-8"))
LOGGING["handlers"]["console"]["formatter"] = _one_of(
    "DIRECTOR_LOG_FORMAT", {"text": "line", "json": "json"}, "text"
)
LOGGING["loggers"] |= {
    name: {"level": DIRECTOR_LOG_LEVEL} for name in ("director", "jobgroups", "backends")
}

#: Where a runner serves its metrics; None: nowhere, the web of its data folder has them.
DIRECTOR_METRICS_LISTEN: tuple[str, int] | None = None
if _listen := _text("DIRECTOR_METRICS_LISTEN"):
    _found = re.fullmatch(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})", _listen)
    if not _found or not 0 < int(_found[2]) < 2**16:
        raise ImproperlyConfigured(
            f"DIRECTOR_METRICS_LISTEN is {_listen!r}; write it as host:port, like 0.0.0.0:9830."
        )
    DIRECTOR_METRICS_LISTEN = _found[1].strip("[]"), int(_found[2])

# --- unknown settings ---------------------------------------------------------------------------

DIRECTOR_SETTINGS = sorted(name for name in env.read if name.startswith("DIRECTOR_"))
# Variables of ``director.cli`` and of the tests.
_OTHERS = re.compile(r"DIRECTOR_(URL|SUBMITTER|TEST_.*)")
#: Variables that look like settings, probably misspelt: ``director.apps`` warns about them.
DIRECTOR_UNKNOWN_SETTINGS = sorted(
    name
    for name in os.environ
    if name.startswith("DIRECTOR_")
    and name not in DIRECTOR_SETTINGS
    and not _OTHERS.fullmatch(name)
)
