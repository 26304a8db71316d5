-- Sequences of a snapshot. Grain: one row per example and branch. Parameters: $snapshot_id, $tokenization_id.
SELECT
    record.hex_id(links.example_id) AS example_id, links.branch, record.hex_id(links.sequence_id) AS sequence_id, sequences.token_ids,
    sequences.response_positions, members.multiplicity
FROM record.snapshot_examples AS members
JOIN record.example_sequences AS links ON links.example_id = members.example_id AND links.tokenization_id = $tokenization_id
JOIN record.sequences AS sequences ON sequences.sequence_id = links.sequence_id
WHERE members.snapshot_id = $snapshot_id
ORDER BY links.example_id, links.branch
