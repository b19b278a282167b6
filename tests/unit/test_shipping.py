"""What the image, the compose file and the site promise, as far as it is known without a container."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import load_command_class
from pytest_django import Settings

from director import __version__
from director.pages import documents
from tests.harness.processes import ROOT, python

IMAGE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
SITE = re.sub(r"!!python/\S+", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
SECRETS = ("POSTGRES_PASSWORD", "DIRECTOR_SECRET_KEY")


def test_version_is_the_newest_in_the_changelog() -> None:
    released = re.findall(
        r"^## \[([\d.]+)\] - \d{4}-\d\d-\d\d$",
        (ROOT / "CHANGELOG.md").read_text("utf-8"),
        re.MULTILINE,
    )
    assert released[0] == __version__


def _command(words: list[str]) -> None:
    name, *options = words
    load_command_class("director", name).create_parser("director", name).parse_args(options)


def test_image_runs_a_command_as_another_user_than_root() -> None:
    [entry] = re.findall(r"^ENTRYPOINT (.+)$", IMAGE, re.MULTILINE)
    [command] = re.findall(r"^CMD (.+)$", IMAGE, re.MULTILINE)
    assert json.loads(entry) == ["director"]
    _command(json.loads(command))
    last_stage = IMAGE.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.+)$", last_stage, re.MULTILINE) == ["10001"]
    [check] = re.findall(
        r'HEALTHCHECK.*CMD (\["python", .*?\])$', last_stage.replace("\\\n", ""), re.MULTILINE
    )
    _, _, program = json.loads(check)
    compile(program, "HEALTHCHECK", "exec")
    assert "'/healthz'" in program


def test_image_is_built_of_files_that_exist() -> None:
    kept = re.findall(
        r"^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {"director", "jobgroups", "backends", "templates"} <= set(kept)
    assert [name for name in kept if not list(ROOT.glob(name))] == []


def test_compose_runs_web_runners_and_files_with_postgresql_and_redis() -> None:
    assert set(SERVICES) == {"web", "runner", "files", "database", "redis"}
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["web"]
    assert SERVICES["web"]["ports"] == ["${LISTEN:-127.0.0.1}:9820:9820"]
    for name in ("web", "runner", "files"):
        _command(SERVICES[name]["command"])
        assert {one["condition"] for one in SERVICES[name]["depends_on"].values()} == {
            "service_healthy"
        }
        assert SERVICES[name]["volumes"] == ["files:/data/files"]


@pytest.mark.parametrize("name", SERVICES)
def test_service_has_no_rights_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert not service.keys() & {"privileged", "cap_add", "devices", "network_mode", "pid", "ipc"}
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("user") != "root"
    # PostgreSQL's image sets the owner of its folder before it gives up its rights.
    assert name == "database" or service["cap_drop"] == ["ALL"]
    assert service["restart"] == "unless-stopped"
    # The web has the check of the image.
    assert service.get("healthcheck", {}).get("test") or name in ("web", "runner", "files")


def test_secrets_have_no_default_and_settings_exist(settings: Settings) -> None:
    for name in SECRETS:
        assert set(re.findall(rf"\$\{{{name}(.*?)\}}", TEXT)) == {":?see docs/containers.md"}
    for name in ("web", "runner", "files"):
        # The token, or DIRECTOR_ACCOUNTS, with which a token is an error.
        assert SERVICES[name]["env_file"] == ".env"
        assert "DIRECTOR_TOKEN" not in SERVICES[name]["environment"]
    described = (ROOT / "docs" / "containers.md").read_text(encoding="utf-8")
    named = set(re.findall(r"DIRECTOR_[A-Z_]+", IMAGE + TEXT + described))
    assert named <= set(settings.DIRECTOR_SETTINGS)


def test_site_is_built_without_warnings_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    built = python("-m", "mkdocs", "build", "--site-dir", str(tmp_path), NO_MKDOCS_2_WARNING="1")
    assert built.returncode == 0, built.stderr
    pages = [page.read_text(encoding="utf-8") for page in tmp_path.rglob("*.html")]
    assert len(pages) > 20
    loaded = {
        url
        for page in pages
        for url in re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="?([^" >]+)', page)
    }
    assert [url for url in loaded if re.match(r"(https?:)?//", url)] == []


def test_site_and_product_list_the_same_pages_in_one_order() -> None:
    kinds = [kind for kind in yaml.safe_load(SITE)["nav"] if isinstance(kind, dict)]
    assert [name for kind in kinds for name in kind] == [
        "Tutorial",
        "How-to guides",
        "Reference",
        "Explanation",
    ]
    listed = [
        page.removesuffix(".md") for kind in kinds for pages in kind.values() for page in pages
    ]
    assert [name for name in documents.titles() if name != "api-reference"] == listed
