"""What all tests share: services that may be away, and a hub that belongs to one test."""

import ast
import atexit
import gc
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from django.conf import settings
from django.core.files.storage import storages
from django.core.management.color import no_style
from django.db import connections
from django.test import TransactionTestCase, override_settings
from servestatic.middleware import ServeStaticMiddleware

from tests.harness.processes import migrated, shared_folder

# nohup starts a run with SIGINT ignored, and child processes would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The duration of an example depends on the load of the machine.
hypothesis.settings.register_profile("director", deadline=None)
hypothesis.settings.register_profile("quick", deadline=None, max_examples=25)
hypothesis.settings.load_profile("director")


@pytest.fixture(autouse=True)
def line_is_read_again() -> None:
    from jobgroups.queries import figures, pool  # Django is set up now

    pool._cache.forget()
    figures.kept_figures.forget()


@pytest.fixture
def files_folder(tmp_path: Path) -> Iterator[Path]:
    """A storage of the test's own, in a folder."""
    from jobgroups.services import stored_files  # Django is set up now

    backend = "django.core.files.storage.FileSystemStorage"
    storages = {
        **settings.STORAGES,
        "files": {"BACKEND": backend, "OPTIONS": {"location": tmp_path / "files"}},
    }
    stored_files._incoming.cache_clear()
    with override_settings(DIRECTOR_FILES_DIR=tmp_path / "files", STORAGES=storages):
        yield tmp_path / "files"
    stored_files._incoming.cache_clear()


@pytest.fixture
def bucket(files_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A storage of the test's own, in a bucket."""
    from tests.harness.bucket import BucketServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    server = BucketServer()
    files = {"BACKEND": "jobgroups.services.bucket.Bucket", "OPTIONS": server.options}
    with override_settings(STORAGES={**settings.STORAGES, "files": files}):
        client = storages["files"].connection.meta.client
        client.create_bucket(Bucket=server.name)
        yield server
        client.close()
    server.close()


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _resolve_offline() -> None:
    """Let reserved names be unknown at once: a name server that drops one question delays a test by
    5 s.
    """
    resolve = socket.getaddrinfo

    def resolved(host: bytes | str | None, *arguments: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host or ""
        if name.endswith((".invalid", ".example", ".test")):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *arguments, **options)

    socket.getaddrinfo = resolved


def _list_static_files_once() -> None:
    """Let all handlers of this process share one list of the static files.

    To list them takes 60 ms, and each test client has a handler of its own.
    """
    list_files = ServeStaticMiddleware.add_files_from_finders
    listed: dict[str, Any] = {}

    def add_listed(self: ServeStaticMiddleware) -> None:
        if not listed:
            list_files(self)
            listed.update(files=self.files, directories=self.directories)
        self.files = {**self.files, **listed["files"]}
        self.directories = [*listed["directories"]]

    ServeStaticMiddleware.add_files_from_finders = add_listed


def _keep_permissions() -> None:
    """Let the teardown of a test with transactions leave content types and permissions.

    Django's deletes them and makes them again, in half of the time of such a test.
    """

    def empty_tables(self: TransactionTestCase) -> None:
        for name in self._databases_names(include_mirrors=False):
            tables = connections[name].introspection.django_table_names(
                only_existing=True, include_views=False
            )
            operations = connections[name].ops
            operations.execute_sql_flush(
                operations.sql_flush(
                    no_style(), {*tables} - {"django_content_type", "auth_permission"}
                )
            )

    TransactionTestCase._fixture_teardown = empty_tables


def pytest_configure(config: pytest.Config) -> None:
    """Keep the files of tests in a folder of their own, and the names of tests from the network."""
    # As in the product: most objects are modules and tests, which stay.
    gc.set_threshold(50_000, 20, 50)
    shared_folder()
    _resolve_offline()
    _list_static_files_once()
    _keep_permissions()
    folder = Path(tempfile.mkdtemp(prefix="director-files-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if settings.DIRECTOR_ON_SQLITE:
        settings.DATABASES["default"].setdefault("TEST", {})["NAME"] = str(folder / "test.sqlite3")
    settings.DIRECTOR_FILES_DIR = folder
    settings.STORAGES["files"]["OPTIONS"]["location"] = folder
    # The default one takes 0.3 s for each password, on purpose.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(scope="session")
def django_db_keepdb(request: pytest.FixtureRequest, django_db_modify_db_settings: None) -> bool:
    """Return whether there is a database, which is so on SQLite: a copy of the one of this run."""
    if settings.DIRECTOR_ON_SQLITE:
        copy = settings.DATABASES["default"]["TEST"]["NAME"]
        shutil.copyfile(migrated() / "director.sqlite3", copy)
    return settings.DIRECTOR_ON_SQLITE or bool(request.config.getvalue("reuse_db"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the choice of the long tests that concern a change."""
    parser.addoption(
        "--changed-since",
        metavar="COMMIT",
        help="run the slow tests of files that changed since this commit, and no others",
    )


def _code(text: str) -> str:
    """Return a Python file's text without comments and layout, which no breakage or kill depends
    on.
    """
    return ast.dump(ast.parse(text))


def _changed_since(commit: str) -> set[str]:
    """Return the paths of Python files whose code changed since the commit."""
    root = Path(__file__).parent.parent

    def git(*arguments: str, check: bool) -> str:
        return subprocess.run(
            ["git", *arguments], check=check, cwd=root, capture_output=True, text=True
        ).stdout

    changed = set()
    for path in git(
        "diff", "--name-only", "--diff-filter=d", commit, "--", "*.py", check=True
    ).splitlines():
        before = git("show", f"{commit}:{path}", check=False)  # nothing for a new file
        if _code(before) != _code((root / path).read_text(encoding="utf-8")):
            changed.add(path)
    return changed


def _code_of(item: pytest.Item) -> set[str]:
    """Return the product's files that a slow test breaks, or in which it kills the process."""
    callspec = getattr(item, "callspec", None)
    params = callspec.params.values() if callspec else ()
    return set().union(*(getattr(value, "paths", ()) for value in params))


def _keep_changed(commit: str, items: list[pytest.Item], config: pytest.Config) -> None:
    changed = _changed_since(commit)
    kept = [item for item in items if "slow" in item.keywords and _code_of(item) & changed]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


def _deal(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """Return the items in an order in which each worker, which gets an equal part of them, begins
    with files of long tests: at the end of a run the others would wait for these.

    Each second worker gets the files of the browser, as the first one that it runs starts a
    Chromium and a Director.
    """
    browser, others = list[list[pytest.Item]](), list[list[pytest.Item]]()
    short = list[pytest.Item]()
    for path, of_file in itertools.groupby(items, key=lambda item: item.path):
        if "browser" in path.parts:
            browser.append(list(of_file))
        elif {"e2e", "fuzz"} & set(path.parts):
            others.append(list(of_file))
        else:
            short += of_file
    pairs = itertools.zip_longest(browser, others, fillvalue=list[pytest.Item]())
    long_ = list(itertools.chain.from_iterable(pairs))
    rest, size = iter(short), len(items) // workers
    dealt: list[pytest.Item] = []
    for number in range(workers):
        part = list(itertools.chain.from_iterable(long_[number::workers]))
        dealt += [*part, *itertools.islice(rest, max(size - len(part), 0))]
    return [*dealt, *rest]


def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    """Skip tests whose service is away, unless DIRECTOR_TEST_SERVICES=required makes that a
    failure.
    """
    if commit := config.getoption("changed_since"):
        _keep_changed(commit, items, config)
    if workers := getattr(config, "workerinput", {}).get("workercount"):
        items[:] = _deal(items, workers)
    if os.environ.get("DIRECTOR_TEST_SERVICES") == "required":
        return
    missing = {"ffmpeg": "ffmpeg is not on the PATH"} if shutil.which("ffmpeg") is None else {}
    for marker, port, name in (("postgres", 5432, "PostgreSQL"), ("redis", 6379, "Redis")):
        if not _answers(port):
            missing[marker] = f"no {name} answers on 127.0.0.1:{port}"
    for marker, reason in missing.items():
        for item in items:
            if marker in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))
