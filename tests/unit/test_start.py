"""What a start imports: a library takes up to 0.2 s."""

from pathlib import Path

from tests.harness.processes import python

CODE = """
import sys

def check_absent(*names):
    imported = {*names} & {*sys.modules}
    assert not imported, imported

import director.__main__
check_absent("django", "httpx")
import django
django.setup()
import director.management.commands.runner
check_absent("httpx", "psycopg", "redis", "director.urls", "jobgroups.admin")
import director.asgi
check_absent("httpx", "redis", "markdown_it")
assert "director.urls" in sys.modules, "the first request imports it"
"""


def test_process_imports_only_what_it_needs(tmp_path: Path) -> None:
    settings = {"DIRECTOR_DATA_DIR": str(tmp_path), "DJANGO_SETTINGS_MODULE": "director.settings"}
    done = python("-c", CODE, **settings)
    assert not done.returncode, done.stderr
