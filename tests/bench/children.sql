INSERT INTO jobgroups_childjob (id, group_id, position, backend_id, seed, status, run,
 attempt_count, uncharged_count, progress, steps_completed, steps_total, outputs_json,
 warnings_json, starred, queued_at, started_at, completed_at, group_created_at) {numbers}
 SELECT {child_id}, {group_id}, place, CASE WHEN {rare} AND place = 0 THEN 'gpu-rare'
 WHEN place = 3 THEN 'gpu-all' ELSE 'gpu-' || ((i * 4 + place) % 50) END, i, {status}, 1, 1, 0, 100, 20, 20,
 CASE WHEN i % 100 < 97 THEN '{{"images": []}}' END, '[]', {false}, {moment}, {moment}, {moment}, {moment}
 FROM numbers CROSS JOIN (SELECT 0 AS place UNION ALL SELECT 1 UNION ALL SELECT 2
 UNION ALL SELECT 3) places
