"""What pyproject.toml cannot say: templates and documents lie beside the packages and are installed
in one.

Below ``director`` Django finds them as those of an app, and no ``templates`` folder of somebody
else's can stand in their place.
"""

from __future__ import annotations

from setuptools import find_namespace_packages, setup

setup(
    packages=[
        *find_namespace_packages(include=["director*", "jobgroups*", "backends*"]),
        "director.templates",
        "director.docs",
    ],
    package_dir={"director.templates": "templates", "director.docs": "docs"},
)
