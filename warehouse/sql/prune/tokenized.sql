-- Examples left under each tokenization. Grain: one row per tokenization.
SELECT tokenization_id, list(DISTINCT record.hex_id(example_id) ORDER BY record.hex_id(example_id)) AS example_ids, count(*) AS num_rows
FROM record.example_sequences
GROUP BY tokenization_id
ORDER BY tokenization_id
