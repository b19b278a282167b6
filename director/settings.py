"""Every setting of the Director, and the only reader of the environment.

Nothing needs to be set: the default is one process, SQLite in the data folder, loopback only.
``docs/settings.md`` describes each ``DIRECTOR_…`` variable.
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import environ
import platformdirs
from django.core.exceptions import ImproperlyConfigured

from director import __version__

BASE_DIR = Path(__file__).resolve().parent.parent


class _Environment(environ.Env):  # type: ignore[misc]  # environ has no types
    """Remembers which variables it was asked for: no other one is a setting."""

    asked: set[str] = set()

    def get_value(self, var: str, *args: Any, **kwargs: Any) -> Any:
        self.asked.add(var)
        return super().get_value(var, *args, **kwargs)


env = _Environment()
Number = TypeVar("Number", int, float)

# --- helpers ------------------------------------------------------------------------------------


def _flag(name: str, default: bool) -> bool:
    """Read a switch; anything but the usual words for yes and no is an error, not a guess."""
    value = str(env.str(name, default="")).strip().lower()
    if value in ("", "1", "true", "yes", "on", "0", "false", "no", "off"):
        return default if value == "" else value in ("1", "true", "yes", "on")
    raise ImproperlyConfigured(f"{name} is {value!r}; use 1 (on) or 0 (off).")


def _number(name: str, kind: type[Number], default: Number, low: float, high: float) -> Number:
    """Read a number within ``low`` … ``high``."""
    text = str(env.str(name, default="")).strip()
    if not text:
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
    """Read one of a few words, and return what it means."""
    word = str(env.str(name, default="")).strip().lower() or default
    if word not in meanings:
        raise ImproperlyConfigured(f"{name} is {word!r}; use one of {', '.join(meanings)}.")
    return meanings[word]


def _words(name: str) -> list[str]:
    """Read a comma-separated list, blanks left out."""
    return [word.strip() for word in str(env.str(name, default="")).split(",") if word.strip()]


def _urls(name: str) -> list[str]:
    """Read URLs between blanks or commas, which may stand in one of them as well.

    What is wrong is said without what was written: such a URL holds a password.
    """
    text = str(env.str(name, default="")).strip()
    urls = re.split(r"[\s,]+(?=[A-Za-z][A-Za-z0-9]*://)", text) if text else []
    for number, url in enumerate(urls, start=1):
        if not re.match(r"[A-Za-z][A-Za-z0-9]*://[^\s]", url):
            raise ImproperlyConfigured(
                f"Entry {number} of {name} is no URL; each is written as service://…, with a comma"
                " between two of them."
            )
    return [url.strip(" ,") for url in urls]


# --- the data folder ------------------------------------------------------------------------------

DIRECTOR_VERSION = __version__
DIRECTOR_DATA_DIR = Path(
    str(env.str("DIRECTOR_DATA_DIR", default="")).strip()
    or platformdirs.user_data_path("comfyui-director", appauthor=False)
).expanduser()
DIRECTOR_DATA_DIR = DIRECTOR_DATA_DIR.absolute()

#: The file that ``director.server.data_dir.prepare`` writes once, readable by its owner only.
DIRECTOR_SECRET_KEY_FILE = DIRECTOR_DATA_DIR / "secret-key"


def _secret_key() -> str:
    """Return the configured key, else the data folder's, else one for this process alone.

    Importing settings writes nothing: ``serve`` keeps the key by ``director.server.data_dir.prepare``.
    """
    given = str(env.str("DIRECTOR_SECRET_KEY", default="")).strip()
    if given:
        if len(given) < 32:
            raise ImproperlyConfigured("DIRECTOR_SECRET_KEY must have at least 32 characters.")
        return given
    try:
        kept = DIRECTOR_SECRET_KEY_FILE.read_text(encoding="ascii").strip()
    except OSError:
        kept = ""
    return kept or secrets.token_urlsafe(50)


SECRET_KEY = _secret_key()
DEBUG = _flag("DIRECTOR_DEBUG", default=False)
DEFAULT_EXCEPTION_REPORTER_FILTER = "director.security.debug_filter.SecretsFilter"

# --- who may ask ----------------------------------------------------------------------------------

LOOPBACK_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
DIRECTOR_ALLOWED_HOSTS = _words("DIRECTOR_ALLOWED_HOSTS")
for _host in DIRECTOR_ALLOWED_HOSTS:
    if not re.fullmatch(r"\*|[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]", _host):
        raise ImproperlyConfigured(
            f"DIRECTOR_ALLOWED_HOSTS has {_host!r}; write host names alone, without http:// and port."
        )
ALLOWED_HOSTS = [*LOOPBACK_HOSTS, *DIRECTOR_ALLOWED_HOSTS]
#: Origins of pages that may use the API and the sockets, beside loopback ones.
DIRECTOR_ALLOWED_ORIGINS = [word.rstrip("/") for word in _words("DIRECTOR_ALLOWED_ORIGINS")]
for _origin in DIRECTOR_ALLOWED_ORIGINS:
    if not re.fullmatch(r"https?://[^/?#\s]+", _origin):
        raise ImproperlyConfigured(
            f"DIRECTOR_ALLOWED_ORIGINS has {_origin!r}; write each as http://host:port."
        )
CSRF_TRUSTED_ORIGINS = list(DIRECTOR_ALLOWED_ORIGINS)
#: Addresses of proxies in front: who asks through one is whom its ``X-Forwarded-For`` names.
DIRECTOR_TRUSTED_PROXIES = _words("DIRECTOR_TRUSTED_PROXIES")
for _proxy in DIRECTOR_TRUSTED_PROXIES:
    try:
        ipaddress.ip_address(_proxy)
    except ValueError:
        raise ImproperlyConfigured(
            f"DIRECTOR_TRUSTED_PROXIES has {_proxy!r}; write each as an address, like 127.0.0.1."
        ) from None

#: One shared secret; with it everybody signs in, programs and people. Empty: nobody needs to.
DIRECTOR_TOKEN = str(env.str("DIRECTOR_TOKEN", default="")).strip()
if DIRECTOR_TOKEN and not re.fullmatch(r"[\x21-\x7e]{16,512}", DIRECTOR_TOKEN):
    raise ImproperlyConfigured(
        "DIRECTOR_TOKEN must have 16 to 512 letters, digits and signs, without blanks."
    )

# --- what is asked of the Director ----------------------------------------------------------------

#: Backends created at start where they are missing: ``host:port`` or a URL each.
DIRECTOR_BACKENDS = _words("DIRECTOR_BACKENDS")
#: Look for ComfyUIs on this machine's ports 8188–8199.
DIRECTOR_DISCOVER = _flag("DIRECTOR_DISCOVER", default=True)
DIRECTOR_DISCOVER_PORTS = range(8188, 8200)
#: Whether backends may have link-local addresses, where a cloud's metadata service is.
DIRECTOR_ALLOW_LINK_LOCAL = _flag("DIRECTOR_ALLOW_LINK_LOCAL", default=False)
#: Prompts of ours that may stand at one ComfyUI: one runs, one waits so that no GPU idles.
DIRECTOR_DEPTH = _number("DIRECTOR_DEPTH", int, 2, 1, 16)
#: A child that has not executed gives up when its backend was unreachable for so long in a row.
DIRECTOR_GIVE_UP_SECONDS = _number("DIRECTOR_GIVE_UP_SECONDS", int, 600, 5, 86_400)
#: A child that has not executed ends as a timeout after so long in all.
DIRECTOR_QUEUED_LIMIT_SECONDS = _number("DIRECTOR_QUEUED_LIMIT_SECONDS", int, 86_400, 60, 2_592_000)
#: How failures are met where a submission does not say: charged attempts of a child within a run,
DIRECTOR_MAX_ATTEMPTS = _number("DIRECTOR_MAX_ATTEMPTS", int, 1, 1, 10)
#: on which other backends (``never``, ``group``, ``any``),
DIRECTOR_RETRY_ELSEWHERE = _one_of(
    "DIRECTOR_RETRY_ELSEWHERE", {"0": "never", "group": "group", "any": "any"}, "0"
)
#: and after how long, doubled with each attempt.
DIRECTOR_RETRY_BACKOFF_SECONDS = _number("DIRECTOR_RETRY_BACKOFF_SECONDS", float, 2, 0, 60)
#: What waits for a backend that has been away so long goes elsewhere, where its group allows that.
DIRECTOR_MOVE_AFTER_SECONDS = _number("DIRECTOR_MOVE_AFTER_SECONDS", int, 60, 1, 86_400)
#: So many failures that speak against a backend, within so many minutes, set it aside; 0: none do.
DIRECTOR_QUARANTINE_FAILURES = _number("DIRECTOR_QUARANTINE_FAILURES", int, 3, 0, 1_000)
DIRECTOR_QUARANTINE_MINUTES = _number("DIRECTOR_QUARANTINE_MINUTES", float, 10, 0.01, 1_440)
#: How long the first quarantine lasts; each one in a row lasts twice as long, up to four hours.
DIRECTOR_QUARANTINE_FORGIVE_MINUTES = _number(
    "DIRECTOR_QUARANTINE_FORGIVE_MINUTES", float, 10, 0.01, 240
)
DIRECTOR_MAX_CHILDREN = _number("DIRECTOR_MAX_CHILDREN", int, 1_000, 1, 10_000)
DIRECTOR_MAX_BODY_BYTES = _number("DIRECTOR_MAX_BODY_BYTES", int, 16 * 2**20, 2**10, 2**28)
DIRECTOR_MAX_METADATA_BYTES = 16 * 2**10
#: The longest answer that is read from a backend (its history carries whole workflows).
DIRECTOR_MAX_ANSWER_BYTES = _number("DIRECTOR_MAX_ANSWER_BYTES", int, 64 * 2**20, 2**16, 2**30)
#: A longer output is not carried: its client is sent to the backend, which it may not reach.
DIRECTOR_PROXY_MAX_BYTES = _number("DIRECTOR_PROXY_MAX_BYTES", int, 64 * 2**20, 2**16, 2**34)
#: Thumbnails are kept in the data folder up to so many bytes.
DIRECTOR_THUMBNAILS_BYTES = _number("DIRECTOR_THUMBNAILS_BYTES", int, 512 * 2**20, 2**20, 2**40)
DIRECTOR_THUMBNAILS_DIR = DIRECTOR_DATA_DIR / "thumbnails"
#: Accept groups (as ``pending``) while no runner is alive, instead of answering 503.
DIRECTOR_ACCEPT_WITHOUT_RUNNER = _flag("DIRECTOR_ACCEPT_WITHOUT_RUNNER", default=False)
#: One number scales every pause of the runner; tests lower it, nobody else needs to.
DIRECTOR_TIME_SCALE = _number("DIRECTOR_TIME_SCALE", float, 1.0, 0.01, 10.0)

# --- who is told -----------------------------------------------------------------------------------

#: Where the pages are reached from outside, for links in notices; without a slash at its end.
DIRECTOR_PUBLIC_URL = str(env.str("DIRECTOR_PUBLIC_URL", default="")).strip().rstrip("/")
if DIRECTOR_PUBLIC_URL and not re.fullmatch(r"https?://[^?#\s]+", DIRECTOR_PUBLIC_URL):
    raise ImproperlyConfigured(
        f"DIRECTOR_PUBLIC_URL is {DIRECTOR_PUBLIC_URL!r}; write it as http://host:port."
    )
#: Services that are told, as apprise's URLs. They hold passwords: nothing ever shows them.
DIRECTOR_NOTIFY = _urls("DIRECTOR_NOTIFY")
#: What they are told of.
DIRECTOR_NOTIFY_ON = _words("DIRECTOR_NOTIFY_ON") or [
    "group_ended",
    "backend_trouble",
    "queue_empty",
]
for _kind in DIRECTOR_NOTIFY_ON:
    if _kind not in ("group_ended", "backend_trouble", "queue_empty"):
        raise ImproperlyConfigured(
            f"DIRECTOR_NOTIFY_ON has {_kind!r}; known are group_ended, backend_trouble, queue_empty."
        )

# --- the database ---------------------------------------------------------------------------------


def _sqlite(path: str) -> dict[str, Any]:
    """Return the options for SQLite: WAL, every commit synced, writers queue instead of failing.

    FULL: with NORMAL a power cut loses commits, and a lost intent is a doubled render. IMMEDIATE: a
    transaction that reads and then writes would fail with "database is locked", whatever the
    timeout. The progress flush alone lowers ``synchronous``, on a connection of its own.
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
        "TEST": {"NAME": f"{tempfile.gettempdir()}/director-test-{os.getpid()}.sqlite3"},
    }


def _database() -> dict[str, Any]:
    url = str(env.str("DIRECTOR_DATABASE_URL", default="")).strip()
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
    # Under ASGI each request has a thread of its own: persistent connections would leak, a pool
    # serves (and is twice as fast).
    config["CONN_MAX_AGE"] = 0
    given = config.get("OPTIONS", {})
    config["OPTIONS"] = {
        # A server that vanished is noticed within half a minute, not after the system's two hours;
        # keepalives see it where nothing is under way, the timeout of what was sent elsewhere.
        "connect_timeout": 5,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 25_000,
        **given,
        # A process that stands still in the middle of a transaction keeps its rows locked from all
        # others: PostgreSQL cuts it off before its leases end. Whatever it meant to write, it tries again.
        "options": f"-c idle_in_transaction_session_timeout=8s {given.get('options', '')}".strip(),
        # While the server is away, whoever asks is told so in seconds, not in half a minute.
        "pool": {"min_size": 2, "max_size": 20, "timeout": 5.0},
    }
    return config


DATABASES = {"default": _database()}
DIRECTOR_ON_SQLITE = DATABASES["default"]["ENGINE"].endswith("sqlite3")
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- the doorbell ---------------------------------------------------------------------------------

DIRECTOR_REDIS_URL = str(env.str("DIRECTOR_REDIS_URL", default="")).strip()
if DIRECTOR_REDIS_URL and DIRECTOR_REDIS_URL.split(":", 1)[0] not in ("redis", "rediss", "unix"):
    raise ImproperlyConfigured("DIRECTOR_REDIS_URL must look like redis://host:6379/0.")
# Without Redis there is no layer: one process rings itself. The in-memory layer would drop the
# newest of a burst and cross no process. Never the core Redis layer: it loses messages under load.
CHANNEL_LAYERS: dict[str, Any] = (
    {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {
                # redis-py 8 would end every idle connection after 5 s.
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
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "director",
    "jobgroups",
    "backends",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "servestatic.middleware.ServeStaticMiddleware",
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
]
#: What of them the API needs: see ``director.web.threaded_handler``.
DIRECTOR_API_MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "director.security.csp.CspMiddleware",
    "director.security.origins.OriginMiddleware",
    "director.web.errors.JsonErrorMiddleware",
    "director.security.sign_in.SignInMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "director.urls"
ASGI_APPLICATION = "director.asgi.application"
APPEND_SLASH = False
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        # Of a source tree. Installed, they lie in ``director``, where Django finds them as an app's,
        # and a folder of that name beside it is somebody else's.
        "DIRS": [BASE_DIR / "templates"] if (BASE_DIR / "manage.py").exists() else [],
        "APP_DIRS": True,
        "OPTIONS": {
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
# Files are served out of the packages that own them: nothing to collect, nothing to forget.
SERVESTATIC_USE_FINDERS = True
SERVESTATIC_AUTOREFRESH = False
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
DATA_UPLOAD_MAX_MEMORY_SIZE = DIRECTOR_MAX_BODY_BYTES
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
# `check --deploy` asks for HTTPS; the Director speaks plain HTTP on loopback, and in a farm a proxy
# in front ends TLS.
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
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"format": "{asctime} {levelname:7} {name}: {message}", "style": "{"},
    },
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": "line"},
        "nowhere": {"class": "logging.NullHandler"},
    },
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {
        "director": {"level": DIRECTOR_LOG_LEVEL},
        "jobgroups": {"level": DIRECTOR_LOG_LEVEL},
        "backends": {"level": DIRECTOR_LOG_LEVEL},
        # Each request to a backend would be a line here.
        "httpx": {"level": "WARNING"},
        "httpcore": {"level": "WARNING"},
        "websockets": {"level": "WARNING"},
        # A line for each of its connections, where whoever asked says it in one.
        "psycopg.pool": {"level": "ERROR"},
        # A traceback a second while Redis is away, where ``jobgroups.events.relay`` says it in one line.
        "channels_redis": {"level": "CRITICAL"},
        # They write URLs with their passwords; ``jobgroups.runner.notices.channels`` says what went wrong.
        "apprise": {"handlers": ["nowhere"], "level": "WARNING", "propagate": False},
        "urllib3": {"handlers": ["nowhere"], "level": "CRITICAL", "propagate": False},
        "django": {"level": "WARNING"},
        # Each 4xx of a client would be a warning here; the client was told.
        "django.request": {"level": "ERROR"},
        # A traceback for each request under a name that is not ours; the client was told.
        "django.security.DisallowedHost": {"level": "CRITICAL"},
    },
}

# --- what is no setting ---------------------------------------------------------------------------

DIRECTOR_SETTINGS = sorted(name for name in env.asked if name.startswith("DIRECTOR_"))
# Of the commands that speak to a running Director, and of the project's own tests.
_OTHERS = re.compile(r"DIRECTOR_(URL|SUBMITTER|TEST_.*)")
#: Variables that look like settings and are none, misspelt most likely: ``director.checks`` says so.
DIRECTOR_UNKNOWN_SETTINGS = sorted(
    name
    for name in os.environ
    if name.startswith("DIRECTOR_")
    and name not in DIRECTOR_SETTINGS
    and not _OTHERS.fullmatch(name)
)
