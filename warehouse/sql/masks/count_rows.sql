-- What a mask with these rows says of a snapshot: sequences, their response tokens, those kept; each sequence counts once.
-- Grain: one row. Parameters: $rows_id, $snapshot_id, $tokenization_id.
SELECT count(*), coalesce(sum(num_tokens), 0)::BIGINT, coalesce(sum(num_kept), 0)::BIGINT
FROM record.mask_values
WHERE mask_id = $rows_id
  AND sequence_id IN (
      SELECT links.sequence_id
      FROM record.snapshot_examples AS members
      JOIN record.example_sequences AS links ON links.example_id = members.example_id
      WHERE members.snapshot_id = $snapshot_id
        AND links.tokenization_id = $tokenization_id
  )
