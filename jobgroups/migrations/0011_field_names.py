"""Attributes of groups, children, attempts, leases and notices get clearer names. The columns keep their names."""

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
    dependencies = [
        ("backends", "0004_field_names"),
        ("jobgroups", "0010_reported_file_origin"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.RemoveIndex(model_name="notice", name="notice_due"),
                *renamed("jobgroup", "claimed", "has_claimed_child", models.BooleanField(default=False)),
                *renamed("childjob", "uncharged_count", "uncounted_attempts", models.IntegerField(default=0)),
                *renamed("attempt", "charged", "is_counted", models.BooleanField(default=True)),
                *renamed("abandonedprompt", "since", "created_at", models.DateTimeField()),
                *renamed("abandonedprompt", "until", "expires_at", models.DateTimeField()),
                *renamed("lease", "until", "expires_at", models.DateTimeField(blank=True, null=True)),
                *renamed("notice", "next_try_at", "next_attempt_at", models.DateTimeField(blank=True, null=True)),
                *renamed("notice", "tries", "attempt_count", models.IntegerField(default=0)),
                *renamed("notice", "taken_by", "delivered_to", models.TextField(blank=True, db_default="", default="")),
                migrations.AlterModelOptions(
                    name="abandonedprompt", options={"ordering": ["created_at"]}
                ),
                migrations.AlterModelOptions(
                    name="jobgroup",
                    options={"ordering": ["-created_at", "-id"], "verbose_name": "group"},
                ),
                migrations.AlterModelOptions(
                    name="childjob",
                    options={"ordering": ["group", "position"], "verbose_name": "job"},
                ),
                migrations.AddIndex(
                    model_name="notice",
                    index=models.Index(
                        condition=models.Q(next_attempt_at__isnull=False),
                        fields=["next_attempt_at"],
                        name="notice_due",
                    ),
                ),
            ]
        )
    ]
