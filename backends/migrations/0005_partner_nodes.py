from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('backends', '0001_squashed_0004_field_names'),
    ]

    operations = [
        migrations.AddField(
            model_name='backend',
            name='partner_nodes_allowed',
            field=models.BooleanField(db_default=False, default=False),
        ),
    ]
