INSERT INTO jobgroups_grouplabel (group_id, key, value) {numbers}
 SELECT {group_id}, 'scene', 'shot_' || {scene} FROM numbers UNION ALL
 SELECT {group_id}, 'project', 'p' || i % 10 FROM numbers
