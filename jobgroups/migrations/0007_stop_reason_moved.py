"""A stop may be requested because a person moved the waiting child. No column changes."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("jobgroups", "0006_child_failed"),
    ]

    operations = [
        migrations.AlterField(
            model_name="attempt",
            name="stop_reason",
            field=models.CharField(
                blank=True,
                choices=[
                    ("cancel", "cancel"),
                    ("timeout", "timeout"),
                    ("superseded", "superseded"),
                    ("gave_up", "gave_up"),
                    ("given_back", "given_back"),
                    ("moved", "moved"),
                ],
                default="",
                max_length=16,
            ),
        ),
    ]
