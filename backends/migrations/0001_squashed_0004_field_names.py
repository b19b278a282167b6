"""All migrations of the app up to 0004_field_names as one: a fresh database needs no others."""

from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    replaces = [
        ('backends', '0001_initial'),
        ('backends', '0002_failures'),
        ('backends', '0003_discovery'),
        ('backends', '0004_field_names'),
    ]

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='Discovery',
            fields=[
                ('id', models.SmallIntegerField(default=1, primary_key=True, serialize=False)),
                ('adopts_until', models.DateTimeField()),
            ],
            options={
                'verbose_name_plural': 'discovery',
            },
        ),
        migrations.CreateModel(
            name='FoundBackend',
            fields=[
                ('url', models.CharField(max_length=500, primary_key=True, serialize=False)),
                ('comfyui_version', models.CharField(blank=True, default='', max_length=64)),
                ('devices', models.JSONField(blank=True, default=list)),
                ('first_seen_at', models.DateTimeField()),
                ('last_seen_at', models.DateTimeField()),
                ('ignored_at', models.DateTimeField(blank=True, null=True)),
                ('backend_id', models.CharField(blank=True, default='', max_length=64)),
            ],
            options={
                'ordering': ['url'],
            },
        ),
        migrations.CreateModel(
            name='Backend',
            fields=[
                ('id', models.CharField(max_length=64, primary_key=True, serialize=False)),
                ('name', models.CharField(max_length=200)),
                ('url', models.CharField(max_length=500, unique=True)),
                ('tags', models.JSONField(blank=True, default=list)),
                ('headers', models.JSONField(blank=True, default=dict)),
                ('enabled', models.BooleanField(default=True)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('adopted_at', models.DateTimeField(blank=True, null=True)),
                ('hold', models.CharField(blank=True, choices=[('', 'none'), ('pause', 'pause'), ('drain', 'drain')], db_default='', default='', max_length=8)),
                ('evict', models.BooleanField(db_column='hold_now', db_default=False, default=False)),
                ('changed_reason', models.CharField(blank=True, db_column='said_reason', db_default='', default='', max_length=500)),
                ('changed_by', models.CharField(blank=True, db_column='said_by', db_default='', default='', max_length=150)),
                ('changed_at', models.DateTimeField(blank=True, db_column='said_at', null=True)),
                ('quarantined_at', models.DateTimeField(blank=True, null=True)),
                ('quarantine_until', models.DateTimeField(blank=True, null=True)),
                ('quarantine_reason', models.CharField(blank=True, db_default='', default='', max_length=500)),
                ('quarantine_by', models.CharField(blank=True, db_default='', default='', max_length=150)),
                ('consecutive_quarantines', models.IntegerField(db_column='quarantine_count', db_default=0, default=0)),
                ('failures_reset_at', models.DateTimeField(blank=True, db_column='forgiven_at', null=True)),
                ('reachability', models.CharField(choices=[('unknown', 'unknown'), ('online', 'online'), ('offline', 'offline')], default='unknown', max_length=16)),
                ('status_reason', models.CharField(blank=True, default='', max_length=500)),
                ('status_since', models.DateTimeField(blank=True, null=True)),
                ('last_seen_at', models.DateTimeField(blank=True, null=True)),
                ('unreachable_since', models.DateTimeField(blank=True, null=True)),
                ('queue_running', models.IntegerField(default=0)),
                ('queue_pending', models.IntegerField(default=0)),
                ('queue_foreign', models.IntegerField(default=0)),
                ('devices', models.JSONField(blank=True, default=list)),
                ('comfyui_version', models.CharField(blank=True, default='', max_length=64)),
            ],
            options={
                'ordering': ['id'],
                'constraints': [models.CheckConstraint(condition=models.Q(('reachability__in', ['unknown', 'online', 'offline'])), name='backend_reachability_known'), models.CheckConstraint(condition=models.Q(('id', ''), _negated=True), name='backend_id_given'), models.CheckConstraint(condition=models.Q(('hold__in', ['', 'pause', 'drain'])), name='backend_hold_known')],
            },
        ),
    ]
