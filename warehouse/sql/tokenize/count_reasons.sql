-- Why examples of a snapshot became no sequence. Grain: one row per reason. Parameters: $snapshot_id, $tokenization_id.
SELECT links.reason, count(DISTINCT links.example_id)
FROM record.snapshot_examples AS members
JOIN record.example_sequences AS links ON links.example_id = members.example_id AND links.tokenization_id = $tokenization_id
WHERE members.snapshot_id = $snapshot_id AND links.sequence_id IS NULL
GROUP BY links.reason
ORDER BY count(DISTINCT links.example_id) DESC, links.reason
