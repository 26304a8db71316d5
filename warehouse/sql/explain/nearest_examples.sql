-- Examples of all snapshots whose ids begin as a given one does, the longest common beginning first. Grain: one row per example, at most 6.
-- Parameters: $example_id.
SELECT example_id, len(list_filter(range(1, len($example_id) + 1), lambda n: starts_with(example_id, $example_id[:n]))) AS num_common
FROM (SELECT record.hex_id(example_id) AS example_id FROM record.examples)
ORDER BY num_common DESC, example_id
LIMIT 6
