"""The installed wheel: a command that serves its pages, with their style, from any folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.harness.processes import ROOT

_PACKAGES = ("director", "jobgroups", "backends")
_WITHOUT_INDEX = ("No matching distribution found for setuptools", "Could not find a version")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this source tree, built in a copy of it: nothing old in ``build`` gets in."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in (*_PACKAGES, "templates"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "manage.py"):
        shutil.copy(ROOT / name, source)
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(source)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if built.returncode and any(text in built.stderr for text in _WITHOUT_INDEX):
        pytest.skip("pip reaches no index for what builds the wheel")
    assert built.returncode == 0, built.stderr
    [found] = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of a fresh environment that has the wheel, and what it needs."""
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    programs = home / ("Scripts" if sys.platform == "win32" else "bin")
    python = programs / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps"]
    subprocess.run([*pip, "--no-index", str(wheel)], check=True, timeout=120)
    purelib = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    # The dependencies are those of this environment.
    Path(purelib, "needed.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return programs


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a user elsewhere, with a data folder of their own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DIRECTOR_", "PYTHON"))}
    folder = str(tmp_path / "data")
    return {**kept, "DIRECTOR_DATA_DIR": folder, "DIRECTOR_DISCOVER": "0", "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def served(installed: Path, environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """The address of a Director that is served by the installed command."""
    command = [installed / "director", "serve", "--port", "0"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if found := re.search(r"Director is ready at (http://\S+)", line):
                yield found[1]
                break
        process.terminate()
        said += process.stdout.read()
        assert process.wait(20) == 0, said


def test_wheel_has_every_template_and_static_file(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [path for path in (ROOT / "templates").rglob("*") if path.is_file()]
    wanted = {f"director/templates/{path.relative_to(ROOT / 'templates').as_posix()}" for path in files}
    static = (path for path in (ROOT / "director" / "static").rglob("*") if path.is_file())
    wanted |= {path.relative_to(ROOT).as_posix() for path in static}
    wanted |= {path.relative_to(ROOT).as_posix() for path in ROOT.glob("backends/simulator/*.gz")}
    assert len(wanted) > 40
    assert wanted <= names


def test_wheel_has_every_module_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT).as_posix() for package in _PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert modules <= names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(_PACKAGES)


def test_command_is_the_installed_one(installed: Path, environment: dict[str, str], tmp_path: Path) -> None:
    code = "import director; print(director.__file__)"
    python = [installed / "python", "-c", code]
    found = subprocess.check_output(python, cwd=tmp_path, env=environment, text=True)
    assert Path(found.strip()).is_relative_to(installed.parent)
    command = [installed / "director", "--version"]
    assert subprocess.check_output(command, cwd=tmp_path, env=environment).startswith(b"director ")


def test_installed_server_serves_pages_with_style_and_scripts(served: str) -> None:
    with httpx.Client(base_url=served, trust_env=False) as http:
        for path in ("/", "/backends", "/submit"):
            page = http.get(path)
            assert page.status_code == 200, page.text
            parts = re.findall(r'(?:href|src)="(/static/[^"?#]+)', page.text)
            assert any(part.endswith(".css") for part in parts), page.text
            assert any(part.endswith(".js") for part in parts), page.text
            for part in dict.fromkeys(parts):
                assert http.get(part).status_code == 200, part
        assert http.get("/nowhere").status_code == 404
        assert http.get("/admin/login/").status_code == 200


def test_installed_client_commands_work(
    installed: Path, environment: dict[str, str], served: str, tmp_path: Path
) -> None:
    command = [installed / "director", "list", "--server", served, "--json"]
    assert subprocess.check_output(command, cwd=tmp_path, env=environment) == b"[]\n"


def test_doctor_finds_no_problem_in_the_installation(
    installed: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    command = [installed / "director", "doctor"]
    said = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
    assert "Packages: " in said
    assert "problem " not in said
