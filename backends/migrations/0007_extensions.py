from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('backends', '0006_hours'),
    ]

    operations = [
        migrations.AddField(
            model_name='backend',
            name='extensions_allowed',
            field=models.BooleanField(db_default=False, default=False),
        ),
    ]
