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
_BESIDE = ("templates", "docs")  #: Folders that are installed within a package.
_WITHOUT_INDEX = ("No matching distribution found for setuptools", "Could not find a version")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this source tree, built in a copy of it: nothing old in ``build`` gets in."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in (*_PACKAGES, *_BESIDE):
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
    """The folder of the programs of a fresh environment that has the wheel."""
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    programs = home / ("Scripts" if sys.platform == "win32" else "bin")
    python = programs / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps"]
    subprocess.run([*pip, "--no-index", str(wheel)], check=True, timeout=300)
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
    with subprocess.Popen(
        [installed / "director", "serve", "--port", "0"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        said = ""
        for line in process.stdout:
            said += line
            if found := re.search(r"Director is ready at (http://\S+)", line):
                yield found[1]
                break
        process.terminate()
        said += process.stdout.read()
        assert process.wait(60) == 0, said


def test_wheel_has_every_file_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        path.relative_to(ROOT).as_posix()
        for pattern in (
            "backends/simulator/*.gz",
            "director/demo/*.json",
            "director/static/**/*",
            "templates/**/*",
            "docs/*.md",
            "docs/pictures/*",
        )
        for path in ROOT.glob(pattern)
        if path.is_file()
    }
    wanted = {f"director/{one}" if one.startswith(_BESIDE) else one for one in wanted}
    assert len(wanted) > 40
    modules = (path for package in _PACKAGES for path in (ROOT / package).rglob("*.py"))
    wanted |= {path.relative_to(ROOT).as_posix() for path in modules}
    assert wanted <= names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(_PACKAGES)


@pytest.mark.slow
def test_installed_commands_work_and_the_server_serves_pages_with_style_and_scripts(
    installed: Path, environment: dict[str, str], served: str, tmp_path: Path
) -> None:
    def out(program: str, *words: str) -> str:
        command = [installed / program, *words]
        return subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)

    found = out("python", "-c", "import director; print(director.__file__)")
    assert Path(found.strip()).is_relative_to(installed.parent)
    assert out("director", "--version").startswith("director ")
    assert out("director", "list", "--server", served, "--json") == "[]\n"
    said = out("director", "doctor")
    assert "Packages: " in said
    assert "problem " not in said
    with httpx.Client(base_url=served, trust_env=False, timeout=60) as http:
        for path in ("/", "/backends", "/submit", "/docs/", "/admin/login/"):
            page = http.get(path)
            assert page.status_code == 200, page.text
            parts = set(re.findall(r'(?:href|src)="(/static/[^"?#]+)', page.text))
            assert {Path(part).suffix for part in parts} >= {".css", ".js"}, page.text
            assert {http.get(part).status_code for part in parts} == {200}
