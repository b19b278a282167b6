"""All migrations of the app up to 0012_notice_state as one: a fresh database needs no others."""

import django.db.models.deletion
import django.db.models.expressions
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    replaces = [
        ('jobgroups', '0001_initial'),
        ('jobgroups', '0002_childjob_starred'),
        ('jobgroups', '0003_failures'),
        ('jobgroups', '0004_notice_taken_by'),
        ('jobgroups', '0005_warnings'),
        ('jobgroups', '0006_child_failed'),
        ('jobgroups', '0007_stop_reason_moved'),
        ('jobgroups', '0008_reported_file'),
        ('jobgroups', '0009_partial_outputs'),
        ('jobgroups', '0010_reported_file_origin'),
        ('jobgroups', '0011_field_names'),
        ('jobgroups', '0012_notice_state'),
    ]

    dependencies = [
        ('backends', '0001_squashed_0004_field_names'),
    ]

    operations = [
        migrations.CreateModel(
            name='Lease',
            fields=[
                ('backend', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='lease', serialize=False, to='backends.backend')),
                ('runner', models.CharField(blank=True, default='', max_length=100)),
                ('epoch', models.BigIntegerField(default=0)),
                ('expires_at', models.DateTimeField(blank=True, db_column='until', null=True)),
            ],
            options={
                'ordering': ['backend'],
            },
        ),
        migrations.CreateModel(
            name='Runner',
            fields=[
                ('name', models.CharField(max_length=100, primary_key=True, serialize=False)),
                ('instance', models.CharField(max_length=32)),
                ('host', models.CharField(max_length=255)),
                ('pid', models.IntegerField()),
                ('version', models.CharField(max_length=32)),
                ('started_at', models.DateTimeField()),
                ('heartbeat_at', models.DateTimeField()),
                ('stopped_at', models.DateTimeField(blank=True, null=True)),
                ('restarts', models.IntegerField(default=0)),
                ('last_error', models.CharField(blank=True, default='', max_length=500)),
                ('last_error_at', models.DateTimeField(blank=True, null=True)),
            ],
            options={
                'ordering': ['name'],
            },
        ),
        migrations.CreateModel(
            name='Attempt',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('number', models.IntegerField()),
                ('run', models.IntegerField()),
                ('prompt_id', models.CharField(max_length=64, unique=True)),
                ('client_id', models.CharField(max_length=200)),
                ('epoch', models.BigIntegerField()),
                ('state', models.CharField(choices=[('intent', 'intent'), ('uncertain', 'uncertain'), ('accepted', 'accepted'), ('running', 'running'), ('success', 'success'), ('error', 'error'), ('interrupted', 'interrupted'), ('timeout', 'timeout'), ('refused', 'refused'), ('not_sent', 'not_sent'), ('never_accepted', 'never_accepted'), ('lost', 'lost')], default='intent', max_length=16)),
                ('is_counted', models.BooleanField(db_column='charged', default=True)),
                ('created_at', models.DateTimeField()),
                ('uncertain_since', models.DateTimeField(blank=True, null=True)),
                ('accepted_at', models.DateTimeField(blank=True, null=True)),
                ('started_at', models.DateTimeField(blank=True, null=True)),
                ('ended_at', models.DateTimeField(blank=True, null=True)),
                ('backend_ended_at', models.DateTimeField(blank=True, null=True)),
                ('stop_requested_at', models.DateTimeField(blank=True, null=True)),
                ('stop_reason', models.CharField(blank=True, choices=[('cancel', 'cancel'), ('timeout', 'timeout'), ('superseded', 'superseded'), ('gave_up', 'gave_up'), ('given_back', 'given_back'), ('moved', 'moved'), ('partly_refused', 'partly_refused')], default='', max_length=16)),
                ('node_errors_json', models.TextField(blank=True, null=True)),
                ('node_outputs_json', models.TextField(default='{}')),
                ('outputs_json', models.TextField(blank=True, null=True)),
                ('error_message', models.TextField(blank=True, null=True)),
                ('error_type', models.CharField(blank=True, max_length=32, null=True)),
                ('error_details_json', models.TextField(blank=True, null=True)),
                ('failure_class', models.CharField(blank=True, choices=[('workflow_refused', 'workflow_refused'), ('node_or_model_missing', 'node_or_model_missing'), ('out_of_memory', 'out_of_memory'), ('cuda_fatal', 'cuda_fatal'), ('node_error', 'node_error'), ('unreachable', 'unreachable'), ('backend_lost', 'backend_lost'), ('stalled', 'stalled'), ('timeout', 'timeout'), ('interrupted', 'interrupted'), ('output_gone', 'output_gone'), ('internal', 'internal')], db_default='', default='', max_length=24)),
                ('warnings_json', models.TextField(db_default='[]', default='[]')),
                ('backend', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name='attempts', to='backends.backend')),
            ],
            options={
                'ordering': ['child', 'number'],
            },
        ),
        migrations.CreateModel(
            name='AbandonedPrompt',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('prompt_id', models.CharField(max_length=64, unique=True)),
                ('created_at', models.DateTimeField(db_column='since')),
                ('expires_at', models.DateTimeField(db_column='until')),
                ('backend', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='abandoned_prompts', to='backends.backend')),
                ('attempt', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='abandoned', to='jobgroups.attempt')),
            ],
            options={
                'ordering': ['created_at'],
            },
        ),
        migrations.CreateModel(
            name='ChildJob',
            fields=[
                ('id', models.CharField(max_length=14, primary_key=True, serialize=False)),
                ('position', models.IntegerField()),
                ('seed', models.BigIntegerField()),
                ('status', models.CharField(choices=[('queued', 'queued'), ('running', 'running'), ('completed', 'completed'), ('failed', 'failed'), ('timeout', 'timeout'), ('cancelled', 'cancelled')], default='queued', max_length=16)),
                ('run', models.IntegerField(default=1)),
                ('attempt_count', models.IntegerField(default=0)),
                ('uncounted_attempts', models.IntegerField(db_column='uncharged_count', default=0)),
                ('not_before', models.DateTimeField(blank=True, null=True)),
                ('progress', models.FloatField(default=0.0)),
                ('current_step', models.CharField(blank=True, max_length=200, null=True)),
                ('steps_completed', models.IntegerField(default=0)),
                ('steps_total', models.IntegerField(default=0)),
                ('outputs_json', models.TextField(blank=True, null=True)),
                ('error_message', models.TextField(blank=True, null=True)),
                ('error_type', models.CharField(blank=True, max_length=32, null=True)),
                ('error_details_json', models.TextField(blank=True, null=True)),
                ('failure_class', models.CharField(blank=True, choices=[('workflow_refused', 'workflow_refused'), ('node_or_model_missing', 'node_or_model_missing'), ('out_of_memory', 'out_of_memory'), ('cuda_fatal', 'cuda_fatal'), ('node_error', 'node_error'), ('unreachable', 'unreachable'), ('backend_lost', 'backend_lost'), ('stalled', 'stalled'), ('timeout', 'timeout'), ('interrupted', 'interrupted'), ('output_gone', 'output_gone'), ('internal', 'internal')], db_default='', default='', max_length=24)),
                ('warnings_json', models.TextField(default='[]')),
                ('starred', models.BooleanField(default=False)),
                ('queued_at', models.DateTimeField()),
                ('started_at', models.DateTimeField(blank=True, null=True)),
                ('completed_at', models.DateTimeField(blank=True, null=True)),
                ('backend', models.ForeignKey(db_constraint=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='children', to='backends.backend')),
                ('current_attempt', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to='jobgroups.attempt')),
            ],
            options={
                'verbose_name': 'job',
                'ordering': ['group', 'position'],
            },
        ),
        migrations.AddField(
            model_name='attempt',
            name='child',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='attempts', to='jobgroups.childjob'),
        ),
        migrations.CreateModel(
            name='JobGroup',
            fields=[
                ('id', models.CharField(max_length=15, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField()),
                ('completed_at', models.DateTimeField(blank=True, null=True)),
                ('status', models.CharField(choices=[('pending', 'pending'), ('running', 'running'), ('partial_complete', 'partial_complete'), ('completed', 'completed'), ('failed', 'failed'), ('cancelled', 'cancelled')], max_length=16)),
                ('seq', models.BigIntegerField(default=0)),
                ('run', models.IntegerField(default=1)),
                ('cancelled_at', models.DateTimeField(blank=True, null=True)),
                ('has_claimed_child', models.BooleanField(db_column='claimed', default=False)),
                ('accepted_without_runner', models.BooleanField(default=False)),
                ('workflow_json', models.TextField()),
                ('workflow_digest', models.CharField(blank=True, db_default='', default='', max_length=16)),
                ('parameters_json', models.TextField(default='{}')),
                ('metadata_json', models.TextField(default='{}')),
                ('seed_strategy', models.CharField(max_length=16)),
                ('base_seed', models.BigIntegerField()),
                ('timeout_seconds', models.IntegerField()),
                ('required_capabilities', models.JSONField(blank=True, default=list)),
                ('submitter', models.CharField(blank=True, default='', max_length=150)),
                ('max_attempts', models.IntegerField(db_default=1, default=1)),
                ('retry_elsewhere', models.CharField(choices=[('never', 'never'), ('group', 'group'), ('any', 'any')], db_default='never', default='never', max_length=8)),
                ('retry_on', models.JSONField(blank=True, null=True)),
                ('partial_outputs', models.CharField(choices=[('accept', 'accept'), ('fail', 'fail')], db_default='accept', default='accept', max_length=8)),
                ('warnings_json', models.TextField(default='[]')),
                ('skipped_backends_json', models.TextField(default='[]')),
                ('idempotency_key', models.CharField(blank=True, max_length=255, null=True)),
                ('idempotency_digest', models.CharField(blank=True, default='', max_length=64)),
                ('total_count', models.IntegerField()),
                ('completed_count', models.IntegerField(default=0)),
                ('failed_count', models.IntegerField(default=0)),
                ('cancelled_count', models.IntegerField(default=0)),
            ],
            options={
                'verbose_name': 'group',
                'ordering': ['-created_at', '-id'],
                'indexes': [models.Index(fields=['workflow_digest', '-created_at'], name='group_workflow'), models.Index(fields=['-created_at', '-id'], name='group_newest'), models.Index(fields=['status', '-created_at', '-id'], name='group_status_newest')],
                'constraints': [models.CheckConstraint(condition=models.Q(('status__in', ['pending', 'running', 'partial_complete', 'completed', 'failed', 'cancelled'])), name='group_status_known'), models.CheckConstraint(condition=models.Q(models.Q(('status__in', ['pending', 'running']), _negated=True), ('completed_at__isnull', True), _connector='OR'), name='group_open_has_no_end'), models.CheckConstraint(condition=models.Q(models.Q(('status__in', ['completed', 'failed']), _negated=True), ('completed_at__isnull', False), _connector='OR'), name='group_end_has_time'), models.CheckConstraint(condition=models.Q(('total_count__gte', django.db.models.expressions.CombinedExpression(models.F('completed_count'), '+', models.F('failed_count')))), name='group_counts_fit'), models.UniqueConstraint(fields=('submitter', 'idempotency_key'), name='group_idempotency_key'), models.CheckConstraint(condition=models.Q(('max_attempts__gte', 1), ('max_attempts__lte', 10)), name='group_max_attempts'), models.CheckConstraint(condition=models.Q(('retry_elsewhere__in', ['never', 'group', 'any'])), name='group_retry_elsewhere_known'), models.CheckConstraint(condition=models.Q(('partial_outputs__in', ['accept', 'fail'])), name='group_partial_outputs_known')],
            },
        ),
        migrations.CreateModel(
            name='JobEvent',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('seq', models.BigIntegerField()),
                ('run', models.IntegerField()),
                ('type', models.CharField(max_length=32)),
                ('frame', models.TextField()),
                ('created_at', models.DateTimeField()),
                ('group', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='events', to='jobgroups.jobgroup')),
            ],
            options={
                'ordering': ['group', 'seq'],
            },
        ),
        migrations.CreateModel(
            name='GroupLabel',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('key', models.CharField(max_length=100)),
                ('value', models.CharField(max_length=200)),
                ('group', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='labels', to='jobgroups.jobgroup')),
            ],
        ),
        migrations.AddField(
            model_name='childjob',
            name='group',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='children', to='jobgroups.jobgroup'),
        ),
        migrations.CreateModel(
            name='Notice',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('kind', models.CharField(max_length=24)),
                ('title', models.CharField(max_length=250)),
                ('body', models.TextField()),
                ('created_at', models.DateTimeField()),
                ('next_attempt_at', models.DateTimeField(blank=True, db_column='next_try_at', null=True)),
                ('attempt_count', models.IntegerField(db_column='tries', default=0)),
                ('sent_at', models.DateTimeField(blank=True, null=True)),
                ('last_error', models.CharField(blank=True, default='', max_length=500)),
                ('claimed_by', models.CharField(blank=True, db_default='', default='', max_length=100)),
                ('urgency', models.SmallIntegerField(db_default=2, default=2)),
                ('delivered_to', models.TextField(blank=True, db_column='taken_by', db_default='', default='')),
            ],
            options={
                'ordering': ['id'],
                'indexes': [models.Index(condition=models.Q(('next_attempt_at__isnull', False)), fields=['next_attempt_at'], name='notice_due')],
            },
        ),
        migrations.CreateModel(
            name='ReportedFile',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('digest', models.CharField(max_length=32)),
                ('executed', models.BooleanField()),
                ('origin', models.CharField(blank=True, db_default='', default='', max_length=32)),
                ('attempt', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='reported_files', to='jobgroups.attempt')),
            ],
            options={
                'ordering': ['id'],
            },
        ),
        migrations.AddIndex(
            model_name='attempt',
            index=models.Index(condition=models.Q(('ended_at__isnull', True)), fields=['backend', 'id'], name='attempt_active'),
        ),
        migrations.AddIndex(
            model_name='attempt',
            index=models.Index(condition=models.Q(('failure_class', ''), _negated=True), fields=['backend', '-ended_at'], name='attempt_failed'),
        ),
        migrations.AddConstraint(
            model_name='attempt',
            constraint=models.UniqueConstraint(fields=('child', 'number'), name='attempt_number'),
        ),
        migrations.AddConstraint(
            model_name='attempt',
            constraint=models.CheckConstraint(condition=models.Q(('state__in', ['intent', 'uncertain', 'accepted', 'running', 'success', 'error', 'interrupted', 'timeout', 'refused', 'not_sent', 'never_accepted', 'lost'])), name='attempt_state_known'),
        ),
        migrations.AddConstraint(
            model_name='attempt',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('ended_at__isnull', False), ('state__in', ['error', 'interrupted', 'lost', 'never_accepted', 'not_sent', 'refused', 'success', 'timeout'])), models.Q(('ended_at__isnull', True), ('state__in', ['accepted', 'intent', 'running', 'uncertain'])), _connector='OR'), name='attempt_ended_has_time'),
        ),
        migrations.AddConstraint(
            model_name='attempt',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('stop_reason', ''), ('stop_requested_at__isnull', True)), models.Q(('stop_requested_at__isnull', False), models.Q(('stop_reason', ''), _negated=True)), _connector='OR'), name='attempt_stop_has_reason'),
        ),
        migrations.AddConstraint(
            model_name='jobevent',
            constraint=models.UniqueConstraint(fields=('group', 'seq'), name='event_seq'),
        ),
        migrations.AddConstraint(
            model_name='jobevent',
            constraint=models.UniqueConstraint(condition=models.Q(('type', 'group_complete')), fields=('group', 'run'), name='event_group_complete_once_per_run'),
        ),
        migrations.AddConstraint(
            model_name='jobevent',
            constraint=models.CheckConstraint(condition=models.Q(('seq__gte', 1)), name='event_seq_from_1'),
        ),
        migrations.AddIndex(
            model_name='grouplabel',
            index=models.Index(fields=['key', 'value', 'group'], name='label_lookup'),
        ),
        migrations.AddConstraint(
            model_name='grouplabel',
            constraint=models.UniqueConstraint(fields=('group', 'key'), name='label_once'),
        ),
        migrations.AddIndex(
            model_name='childjob',
            index=models.Index(condition=models.Q(('current_attempt__isnull', True), ('status', 'queued')), fields=['backend', 'queued_at', 'group', 'position'], name='child_waiting'),
        ),
        migrations.AddIndex(
            model_name='childjob',
            index=models.Index(fields=['backend', 'status'], name='child_backend_status'),
        ),
        migrations.AddIndex(
            model_name='childjob',
            index=models.Index(fields=['group', 'status'], name='child_group_status'),
        ),
        migrations.AddIndex(
            model_name='childjob',
            index=models.Index(condition=models.Q(('failure_class', ''), _negated=True), fields=['-completed_at'], name='child_failed'),
        ),
        migrations.AddConstraint(
            model_name='childjob',
            constraint=models.UniqueConstraint(fields=('group', 'position'), name='child_position'),
        ),
        migrations.AddConstraint(
            model_name='childjob',
            constraint=models.CheckConstraint(condition=models.Q(('status__in', ['queued', 'running', 'completed', 'failed', 'timeout', 'cancelled'])), name='child_status_known'),
        ),
        migrations.AddConstraint(
            model_name='childjob',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('completed_at__isnull', False), ('status__in', ['cancelled', 'completed', 'failed', 'timeout'])), models.Q(('completed_at__isnull', True), ('status__in', ['queued', 'running'])), _connector='OR'), name='child_final_has_time'),
        ),
        migrations.AddConstraint(
            model_name='childjob',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('outputs_json__isnull', False), ('status', 'completed')), models.Q(models.Q(('status', 'completed'), _negated=True), ('outputs_json__isnull', True)), _connector='OR'), name='child_result_iff_completed'),
        ),
        migrations.AddConstraint(
            model_name='childjob',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('status', 'running'), _negated=True), ('current_attempt__isnull', False), _connector='OR'), name='child_running_has_attempt'),
        ),
        migrations.AddConstraint(
            model_name='childjob',
            constraint=models.CheckConstraint(condition=models.Q(('progress__gte', 0), ('progress__lte', 100)), name='child_progress_percent'),
        ),
        migrations.AddIndex(
            model_name='reportedfile',
            index=models.Index(fields=['digest'], name='file_digest'),
        ),
        migrations.AddConstraint(
            model_name='reportedfile',
            constraint=models.UniqueConstraint(fields=('attempt', 'digest'), name='file_once_per_attempt'),
        ),
        migrations.AddConstraint(
            model_name='reportedfile',
            constraint=models.UniqueConstraint(condition=models.Q(('executed', True)), fields=('digest',), name='file_written_by_one'),
        ),
    ]
