"""A newer release: this tree with one more migration, which expands the schema, and its model."""

import shutil
from pathlib import Path

from django.db.migrations.loader import MigrationLoader

from tests.harness.processes import ROOT

MIGRATION = "9999_shelves"


def newer_release(to: Path) -> Path:
    """Copy this tree and add the migration and the model."""
    for name in ("director", "jobgroups", "backends", "templates"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, to / name, ignore=ignored)
    shutil.copy(ROOT / "manage.py", to)
    with (to / "jobgroups/models.py").open("a", encoding="utf-8") as models:
        models.write(Path(__file__).with_name("newer_models.txt").read_text(encoding="utf-8"))
    ((_, latest),) = MigrationLoader(None).graph.leaf_nodes("jobgroups")
    text = (
        Path(__file__)
        .with_name("newer_migration.txt")
        .read_text(encoding="utf-8")
        .format(latest=latest)
    )
    (to / f"jobgroups/migrations/{MIGRATION}.py").write_text(text, encoding="utf-8")
    return to
