INSERT INTO jobgroups_jobgroup (id, created_at, completed_at, status, seq, run, claimed,
 accepted_without_runner, workflow_json, workflow_digest, parameters_json, metadata_json,
 seed_strategy, base_seed, timeout_seconds, required_capabilities, submitter, warnings_json,
 skipped_backends_json, idempotency_digest, total_count, completed_count, failed_count,
 cancelled_count) {numbers} SELECT {group_id}, {moment}, {moment}, {status}, 10, 1,
 {true}, {false}, '{workflow}', 'digest', '{{}}', '{{"scene": "shot_' || {scene} || '"}}',
 'random', i, 300, '[]', CASE WHEN {rare} THEN 'artist-rare' ELSE 'artist-' || (i % 10) END,
 '[]', '[]', '', 4, CASE WHEN i % 100 < 97 THEN 4 ELSE 0 END,
 CASE WHEN i % 100 IN (97, 98) THEN 4 ELSE 0 END, CASE WHEN i % 100 = 99 THEN 4 ELSE 0 END
 FROM numbers
