INSERT INTO jobgroups_attempt (child_id, number, run, backend_id, prompt_id, client_id, epoch, state, charged,
 created_at, accepted_at, started_at, ended_at, stop_reason, node_outputs_json, outputs_json, failure_class) SELECT id,
 1, 1, backend_id, 'p' || id, 'client', 1, CASE WHEN status = 'failed' THEN 'error' ELSE 'success' END, {true},
 queued_at, queued_at, queued_at, {later}, '', '{{"9": {{"images": [{{"filename": "a.png"}}]}}}}',
 outputs_json, CASE WHEN status = 'failed' THEN 'out_of_memory' ELSE '' END
 FROM jobgroups_childjob ORDER BY queued_at
