"""Checks of Python, packages and settings."""

import platform
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from django.conf import settings
from django.core import checks
from packaging.requirements import Requirement

from backends.comfyui.address import normalise_url
from backends.comfyui.destinations import check_url
from director.doctor.findings import Finding, Level
from director.settings import env

_PACKAGE: Final = "comfyui-director"


def python() -> Finding:
    said = f"{platform.python_version()} at {sys.executable}, {platform.platform(terse=True)}."
    return Finding("Python", Level.OK, said)


def packages() -> Finding:
    """Check that all requirements are installed in a supported version."""
    todo = f"Install the requirements: {sys.executable} -m pip install -U {_PACKAGE}"
    needed = list(_requirements())
    if missing := [one.name for one in needed if _version(one.name) is None]:
        said = f"Missing: {', '.join(missing)}."
        return Finding("Packages", Level.PROBLEM, said, todo)
    versions = {one.name: _version(one.name) or "" for one in needed}
    odd = [
        f"{one.name} is {versions[one.name]}; the Director requires {one.specifier}."
        for one in needed
        if not one.specifier.contains(versions[one.name], prereleases=True)
    ]
    if odd:
        return Finding("Packages", Level.WARNING, " ".join(odd), todo)
    shown = ", ".join(f"{name} {_version(name)}" for name in ("Django", "channels", "httpx"))
    return Finding("Packages", Level.OK, f"All requirements are installed: {shown} …")


def _requirements() -> Iterator[Requirement]:
    """Yield the requirements without extras: of the source tree, else of the installed package."""
    project = Path(settings.BASE_DIR) / "pyproject.toml"
    if project.is_file():
        listed = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        listed = metadata.requires(_PACKAGE) or []
    for text in listed:
        needed = Requirement(text)
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            yield needed


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def variables() -> Finding:
    """List the names of all set variables, and check for misspelt ones. Values are not shown."""
    warned = [
        message.msg for message in checks.run_checks() if message.id is not None and message.id.startswith("director.")
    ]
    if warned:
        todo = "Correct the variable's name, or unset it."
        return Finding("Settings", Level.WARNING, " ".join(warned), todo)
    if wrong := _malformed_backend():
        todo = "Correct it: serve and runner do not start with it."
        return Finding("Settings", Level.PROBLEM, wrong, todo)
    made = sorted(name for name in settings.DIRECTOR_SETTINGS if str(env.str(name, default="")).strip())
    said = f"Set: {', '.join(made)}." if made else "All have their defaults."
    return Finding("Settings", Level.OK, said)


def ffmpeg() -> Finding:
    """Check for the optional program that makes the posters of videos."""
    if settings.FFMPEG is not None:
        return Finding("ffmpeg", Level.OK, f"{settings.FFMPEG}.")
    said = "It is not on the PATH: videos have no poster, and width, height and duration of videos are not known."
    return Finding("ffmpeg", Level.NOTE, said, "Install ffmpeg with ffprobe, and restart serve and runners.")


def _malformed_backend() -> str:
    """Return the error of an address in ``DIRECTOR_BACKENDS``, without the address: it may contain a password."""
    for number, word in enumerate(settings.DIRECTOR_BACKENDS, start=1):
        try:
            check_url(normalise_url(word).url)
        except ValueError as error:
            return f"DIRECTOR_BACKENDS: address {number}: {error}"
    return ""
