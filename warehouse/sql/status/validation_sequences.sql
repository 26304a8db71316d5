-- Sequences of given examples under a tokenization. Grain: one row per example and branch. Parameters: $tokenization_id, $example_ids (a list).
SELECT record.hex_id(example_id) AS example_id, branch, record.hex_id(sequence_id) AS sequence_id
FROM record.example_sequences
WHERE tokenization_id = $tokenization_id AND sequence_id IS NOT NULL AND example_id IN (SELECT unnest($example_ids)::UUID)
