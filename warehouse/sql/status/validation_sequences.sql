-- Sequences of given examples under a tokenization. Grain: one row per example and branch. Parameters: $tokenization_id, $example_ids (a list).
SELECT example_id, branch, sequence_id
FROM record.example_sequences
WHERE tokenization_id = $tokenization_id AND sequence_id IS NOT NULL AND list_contains($example_ids, example_id)
