-- Margin and weight of pairs. Grain: one row per example that is a pair. Parameters: $example_ids.
SELECT record.hex_id(example_id) AS example_id, margin, weight
FROM record.current_pairs
WHERE example_id IN (SELECT unnest($example_ids::UUID[]))
