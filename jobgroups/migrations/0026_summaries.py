import json

from django.db import migrations

from jobgroups import workflow


def summarize(apps, schema_editor):
    """Store what the workflows of all groups make; a workflow that this release cannot read keeps an empty summary."""
    JobGroup = apps.get_model("jobgroups", "JobGroup")
    rows = JobGroup.objects.using(schema_editor.connection.alias)
    texts = rows.values_list("pk", "workflow_json", "parameters_json").order_by()
    for key, graph, parameters in texts.iterator(chunk_size=100):
        try:
            prepared = workflow.build_template(json.loads(graph), json.loads(parameters))
            found = workflow.summary(prepared.workflow)
        except Exception:  # noqa: BLE001 an old row must not stop an upgrade
            continue
        text = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
        rows.filter(pk=key).update(summary_json=text, prompt=found.get("prompt", ""))


class Migration(migrations.Migration):

    dependencies = [
        ('jobgroups', '0025_titles'),
    ]

    operations = [
        migrations.RunPython(summarize, migrations.RunPython.noop, elidable=True),
    ]
