from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('jobgroups', '0022_retention_days'),
    ]

    operations = [
        migrations.AddField(
            model_name='jobgroup',
            name='uses_partner_nodes',
            field=models.BooleanField(blank=True, null=True),
        ),
    ]
