INSERT INTO jobgroups_grouplabel (group_id, key, value, group_created_at) {numbers}
 SELECT {group_id}, 'scene', 'shot_' || {scene}, {moment} FROM numbers UNION ALL
 SELECT {group_id}, 'studio', 'main', {moment} FROM numbers UNION ALL
 SELECT {group_id}, 'project', 'p' || (i % 10), {moment} FROM numbers
