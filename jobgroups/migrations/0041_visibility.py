import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("jobgroups", "0040_audit_entry"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField("jobgroup", "shared_at", models.DateTimeField(blank=True, null=True)),
        migrations.AddIndex(
            "jobgroup",
            models.Index(fields=["owner", "-created_at", "-id"], name="group_owner_newest"),
        ),
        migrations.AddIndex(
            "jobgroup",
            models.Index(
                condition=models.Q(("shared_at__isnull", False)),
                fields=["-created_at", "-id"],
                name="group_shared",
            ),
        ),
        migrations.CreateModel(
            "AssetOwner",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("name", models.CharField(max_length=255)),
                ("created_at", models.DateTimeField()),
                (
                    "asset",
                    models.ForeignKey(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="owners",
                        to="jobgroups.asset",
                    ),
                ),
                (
                    "owner",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "ordering": ["-created_at", "-id"],
                "constraints": [
                    models.UniqueConstraint(fields=("owner", "asset"), name="asset_owner_once")
                ],
            },
        ),
    ]
