"""Attributes of a backend get clearer names. The columns keep their names."""

from django.db import migrations, models
from django.db.migrations.operations.base import Operation


def renamed(model: str, old: str, new: str, field: models.Field) -> list[Operation]:
    """Give an attribute a new name and leave its column alone."""
    field.db_column = old
    return [
        migrations.AlterField(model_name=model, name=old, field=field),
        migrations.RenameField(model_name=model, old_name=old, new_name=new),
    ]


class Migration(migrations.Migration):
    dependencies = [("backends", "0003_discovery")]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                *renamed("backend", "hold_now", "evict", models.BooleanField(default=False, db_default=False)),
                *renamed("backend", "said_reason", "changed_reason", models.CharField(blank=True, db_default="", default="", max_length=500)),
                *renamed("backend", "said_by", "changed_by", models.CharField(blank=True, db_default="", default="", max_length=150)),
                *renamed("backend", "said_at", "changed_at", models.DateTimeField(blank=True, null=True)),
                *renamed("backend", "quarantine_count", "consecutive_quarantines", models.IntegerField(db_default=0, default=0)),
                *renamed("backend", "forgiven_at", "failures_reset_at", models.DateTimeField(blank=True, null=True)),
            ]
        )
    ]
