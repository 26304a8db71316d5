-- Sequences that a mask does not decide on: no tokens or no flags are stored, or not one flag, true or false, per response token.
-- Grain: one row per offending example and branch; none when the mask can be trained on. Parameters: $mask_id.
SELECT
    record.hex_id(masked.example_id) AS example_id, masked.branch, record.hex_id(masked.sequence_id) AS sequence_id,
    len(sequences.response_positions) AS num_response_tokens, len(kept.keep) AS num_flags
FROM record.masked_sequences AS masked
LEFT JOIN record.sequences AS sequences ON sequences.sequence_id = masked.sequence_id
LEFT JOIN record.mask_rows AS kept ON kept.sequence_id = masked.sequence_id AND kept.mask_id = masked.mask_id
WHERE masked.mask_id = $mask_id
  AND (
      sequences.token_ids IS NULL OR kept.keep IS NULL
      OR len(kept.keep) <> len(sequences.response_positions)
      OR list_count(kept.keep) <> len(kept.keep)
  )
ORDER BY masked.example_id, masked.branch
