from django.db import migrations, models

from jobgroups.database import triggers


class Migration(migrations.Migration):

    dependencies = [
        ('jobgroups', '0037_usage_sums'),
    ]

    operations = [
        migrations.AddField(
            model_name='childjob',
            name='changed',
            field=models.BigIntegerField(blank=True, editable=False, null=True),
        ),
        triggers.CREATE,
    ]
