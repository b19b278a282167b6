"""A newer release: this tree with one more migration, which expands the schema, and its model."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from django.db.migrations.loader import MigrationLoader

from tests.harness.processes import ROOT, Launched, LaunchedRunner, settings_of

MIGRATION = "9999_shelves"
_NEW = """

# --- additions of the newer release ----------------------------------------------------------------

JobGroup.add_to_class("shelf", models.CharField(max_length=20, null=True, default="top"))


class Shelf(models.Model):
    name = models.CharField(max_length=20)
"""
_EXPANDING = """
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("jobgroups", "{latest}")]
    operations = [
        migrations.CreateModel(
            name="Shelf",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=20)),
            ],
        ),
        migrations.AddField(
            "jobgroup", "shelf", models.CharField(max_length=20, null=True, default="top")
        ),
    ]
"""


def newer_release(to: Path) -> Path:
    """Copy this tree and add the migration and the model."""
    for name in ("director", "jobgroups", "backends", "templates"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, to / name, ignore=ignored)
    shutil.copy(ROOT / "manage.py", to)
    with (to / "jobgroups/models.py").open("a", encoding="utf-8") as models:
        models.write(_NEW)
    ((_, latest),) = MigrationLoader(None).graph.leaf_nodes("jobgroups")
    text = _EXPANDING.format(latest=latest)
    (to / f"jobgroups/migrations/{MIGRATION}.py").write_text(text, encoding="utf-8")
    return to


class AnyRunner(Launched):
    """``runner`` of either release, named as its folder. It is not started yet."""

    ready = LaunchedRunner.ready

    def __init__(self, folder: Path, settings: Mapping[str, str], program: Sequence[str]) -> None:
        variables = settings_of(folder, environment=settings)
        super().__init__(folder, ["runner", "--name", folder.name], variables, program=program)
