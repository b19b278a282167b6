"""What a process shows to a monitoring: log lines as JSON, and metrics."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from director.client import Director
from tests.harness.graphs import picture, text_to_image
from tests.harness.machines import Machines, simulated
from tests.harness.processes import ROOT, LaunchedRunner, Served, serving, stop_in_order
from tests.harness.servers import free_port
from tests.harness.waits import until


@pytest.fixture(scope="module")
def gpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with simulated(tmp_path_factory.mktemp("gpus"), count=1) as running:
        yield running


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, gpus: Machines) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("director")
    with serving(folder, gpus.urls, environment={"DIRECTOR_LOG_FORMAT": "json"}) as director:
        yield director


def _submit(served: Served, count: int = 1, **headers: str) -> tuple[str, str]:
    """Submit to the pool, wait until the group has ended, and return its id and the id of the
    request.
    """
    body = {"workflow_json": picture(), "backend_ids": ["*"], "count": count, "max_attempts": 1}
    answer = served.ask("POST", "/api/job-group", json=body, headers=headers)
    group_id = answer.json()["job_group_id"]

    def status() -> str:
        return str(served.ask("GET", f"/api/job-groups/{group_id}").json()["status"])

    until(lambda: status() not in ("pending", "running"), state=status)
    return group_id, answer.headers["X-Request-ID"]


def _lines(served: Served) -> list[dict[str, Any]]:
    return [json.loads(line) for line in served.printed().splitlines() if line.startswith("{")]


@pytest.mark.parametrize(
    ("given", "is_kept"), [("shot-7/take@3", True), ("two words", False), ("x" * 129, False)]
)
def test_log_lines_of_a_request_and_its_jobs_have_its_id(
    served: Served, gpus: Machines, given: str, is_kept: bool
) -> None:
    gpus.fault("node_error", message="a\nb")
    group_id, request_id = _submit(served, **{"X-Request-ID": given})
    assert (request_id == given) is is_kept
    [job] = served.ask("GET", f"/api/job-groups/{group_id}").json()["child_jobs"]
    submitted, failed = [line for line in _lines(served) if line.get("group") == group_id]
    assert {"level", "logger", "message", "time", "request_id"} <= submitted.keys()
    assert submitted["request_id"] == request_id
    of_job = {"request_id": request_id, "job": job["job_id"], "attempt": 1, "backend": gpus.ids[0]}
    assert failed.items() >= of_job.items()
    assert failed["message"].endswith("failed as node_error (a b)")


def test_refused_bodies_and_probes_have_a_request_id(served: Served) -> None:
    refused = served.ask(
        "POST", "/api/job-group", content=b"x" * 2**20, headers={"Origin": "http://other.example"}
    )
    assert (refused.status_code, len(refused.headers["X-Request-ID"])) == (403, 32)
    assert (
        served.ask("GET", "/healthz", headers={"X-Request-ID": "probe-1"}).headers["X-Request-ID"]
        == "probe-1"
    )


MONITORING = ROOT / "examples" / "monitoring"
Samples = dict[tuple[str, ...], float]


def _metrics(text: str) -> tuple[Samples, set[str]]:
    """Return the value of each sample by name and labels, and the names of those that never
    decrease.
    """
    samples, monotonic = {}, set()
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            samples[
                one.name, *(f"{label}={value}" for label, value in sorted(one.labels.items()))
            ] = one.value
            if family.type != "gauge" and not one.name.startswith("process_"):
                monotonic.add(one.name)
    return samples, monotonic


@pytest.fixture(scope="module")
def worked(served: Served, gpus: Machines) -> Samples:
    """Metrics after a failure, a retry and a change of models, while a page is open."""
    with Director(served.url) as director:
        for checkpoint in ("tiny_sd15.safetensors", "sd_xl_base_1.0.safetensors"):
            gpus.fault("node_error", message="boom")
            group = director.submit(
                text_to_image(side=64, checkpoint=checkpoint), count=2, max_attempts=2
            )
            assert list(director.stream(group.job_group_id))
    until(lambda: any(key[0] == "director_backend_busy_seconds_total" for key in _scraped(served)))
    return _scraped(served)


def _scraped(served: Served) -> Samples:
    answer = served.ask("GET", "/metrics")
    assert answer.status_code == 200
    return _metrics(answer.text)[0]


def test_metrics_show_failures_retries_and_switches_of_models(
    worked: Samples, gpus: Machines
) -> None:
    backend = f"backend={gpus.ids[0]}"
    assert worked["director_jobs_total", "status=completed"] == 4
    assert worked["director_failures_total", backend, "failure_class=node_error"] >= 2
    assert worked["director_retries_total", "cause=node_error"] == 2
    assert worked["director_model_switches_total", backend] == 1
    assert worked["director_event_lag_seconds_count", "origin=same"] > 4


def test_example_of_a_dashboard_and_alerts_name_exported_metrics_and_labels(
    worked: Samples,
) -> None:
    labels: dict[str, set[str]] = {}
    for name, *pairs in worked:
        labels.setdefault(name, {"instance", "job"}).update(
            pair.partition("=")[0] for pair in pairs
        )
    # Without a queued job there is no sample.
    labels |= {
        "up": {"job"},
        "director_backend_queued_jobs": {"backend"},
        "director_backend_prompts": {"backend", "state"},
    }
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text(encoding="utf-8"))
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))["groups"][0][
        "rules"
    ]
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    expressions += [rule["expr"] for rule in rules]
    assert len(expressions) > 30
    for expression in expressions:
        named = re.findall(r"\b(director_\w+|up)\b(?:\{(\w+)=~?\"[^\"]+\"\})?", expression)
        assert named, expression
        for name, label in named:
            assert label in labels[name] | {""}, expression
        for grouped in re.findall(r"\bby \(([\w, ]+)\)", expression):
            assert set(grouped.split(", ")) <= set().union(*(labels[name] for name, _ in named)), (
                expression
            )
        assert expression.count("(") == expression.count(")")
    scrape = yaml.safe_load((MONITORING / "prometheus.yml").read_text(encoding="utf-8"))
    assert scrape["rule_files"] == ["alerts.yml"]
    assert scrape["scrape_configs"][0]["metrics_path"] == "/metrics"


def test_counters_do_not_decrease_when_groups_are_deleted_and_the_process_is_killed(
    served: Served, worked: Samples
) -> None:
    group_id, _ = _submit(served)
    before, monotonic = _metrics(served.ask("GET", "/metrics").text)
    assert {
        "director_jobs_total",
        "director_job_seconds_bucket",
        "director_backend_job_seconds_sum",
    } <= monotonic
    until(lambda: served.ask("POST", f"/api/job-groups/{group_id}/delete").status_code < 300)
    served.kill()
    served.start()
    after = _scraped(served)
    assert {
        key for key in before if key[0] in monotonic and after.get(key, -1.0) < before[key]
    } == set()


def test_web_shows_the_metrics_of_a_runner_beside_it_which_may_have_an_address_of_its_own(
    tmp_path: Path, gpus: Machines
) -> None:
    address = f"127.0.0.1:{free_port()}"
    token = {"Authorization": "Bearer a-token-of-sixteen"}
    variables = {"DIRECTOR_TOKEN": "a-token-of-sixteen", "DIRECTOR_METRICS_LISTEN": address}
    web = Served(
        tmp_path, gpus.urls, arguments=("--no-runner", "--port", "0"), environment=variables
    )
    runner = LaunchedRunner(tmp_path, environment=variables)
    try:
        runner.start()
        busy = ("director_database_seconds_count", "threads=runner-pulse")
        until(lambda: busy in _metrics(web.ask("GET", "/metrics", headers=token).text)[0])
        url = f"http://{address}/metrics"
        assert httpx.get(url, trust_env=False).status_code == 401
        own = _metrics(httpx.get(url, trust_env=False, headers=token).text)[0]
        assert busy in own
        assert ("director_runners",) not in own
        stop_in_order(runner, web)
    finally:
        runner.close()
        web.close()
