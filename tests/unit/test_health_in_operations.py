"""docs/operations.md has every answer of ``/api/health``, in the words in which it is given."""

import datetime as dt
import re

import pytest
from django.test import override_settings
from pytest_django import Settings

from director.web import health
from director.web.health import Check, HealthReport, StorageReport
from jobgroups.models import Runner
from tests.harness.processes import ROOT

_PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
_ROWS = re.findall(
    r"^\| `(database|channel_layer|runner|backends|storage)` \| (.+?) \| (ok|degraded|down) \| (.*?) ?\|$",
    _PAGE,
    re.MULTILINE,
)
_NOW = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)


def _runner(age_s: float, **fields: object) -> Runner:
    return Runner(name="rack-1", heartbeat_at=_NOW - dt.timedelta(seconds=age_s), **fields)


def _facts(*runners: Runner) -> HealthReport:
    return HealthReport(list(runners), _NOW, {})


def _with_retention() -> Check:
    with override_settings(DIRECTOR_RETENTION_DAYS=30, DIRECTOR_RETENTION_BYTES=2**30):
        return health.storage_check(StorageReport(400 * 2**30))


def _given() -> dict[str, list[Check]]:
    failed = {"last_error_at": _NOW, "restarts": 2}
    return {
        "database": [health.database_check(None), health.database_check(_facts())],
        "channel_layer": [
            health.channel_layer_check(""),
            health.channel_layer_check("", has_others=True),
            health.channel_layer_check("redis://127.0.0.1:1/0"),
            Check(health.Level.OK, "A message was received through Redis."),
        ],
        "runner": [
            health.runner_check(None),
            health.runner_check(_facts()),
            health.runner_check(_facts(_runner(60.0))),
            health.runner_check(_facts(_runner(0.8), _runner(1.0))),
            health.runner_check(_facts(_runner(0.8, **failed))),
        ],
        "storage": [
            health.storage_check(None),
            Check(
                health.Level.DEGRADED,
                "The storage of files does not answer; see the log. Outputs are copied when it does, uploads and stored"
                " files are refused. Jobs go on; those with assets wait.",
            ),
            health.storage_check(StorageReport(0, ["rack-1", "rack-2"])),
            health.storage_check(StorageReport(2**30)),
            health.storage_check(StorageReport(400 * 2**30)),
            Check(
                health.Level.OK, "9 GiB are free. Ended groups without a starred job are deleted 30 d after their end."
            ),
        ],
        "backends": [
            health.backends_check(None),
            health.backends_check({}),
            health.backends_check({"gpu-1": "online"}),
            *(
                health.backends_check({"gpu-1": "online", "gpu-2": "busy", "gpu-3": status})
                for status in ("online", "offline", "quarantined", "paused", "draining")
            ),
        ],
    }


def _like(words: str) -> re.Pattern[str]:
    """Return what a sentence of the page stands for: dots are any text, numbers any number."""
    pattern = re.escape(words).replace("…", ".+")
    return re.compile(re.sub(r"\d+(\\\.\d+)?", r"\\d+(?:\\.\\d+)?", pattern))


def test_every_answer_is_in_the_page_with_what_to_do() -> None:
    for name, answers in _given().items():
        for answer in answers:
            rows = [
                todo
                for check, words, status, todo in _ROWS
                if check == name and status == answer.status and _like(words).fullmatch(answer.detail)
            ]
            assert len(rows) == 1, f"{name}: {answer}"
            assert rows[0] or answer.status == "ok", f"{name}: {answer} says not what to do"


def test_the_page_has_no_answer_that_is_never_given() -> None:
    given = _given()
    for name, words, status, _ in _ROWS:
        found = [one for one in given[name] if _like(words).fullmatch(one.detail)]
        assert [one.status for one in found] == [status], words


@pytest.mark.parametrize("facts", [_facts(), _facts(_runner(60.0))])
def test_where_work_is_taken_without_a_runner_that_is_no_fault_of_all(facts: HealthReport, settings: Settings) -> None:
    settings.DIRECTOR_ACCEPT_WITHOUT_RUNNER = True
    assert health.runner_check(facts).status == "degraded"
    assert "With `DIRECTOR_ACCEPT_WITHOUT_RUNNER` a missing runner is `degraded`" in _PAGE
