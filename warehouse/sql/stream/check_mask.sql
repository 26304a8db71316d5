-- Sequences that a mask does not decide on: no tokens or no flags are stored, or not one flag, true or false, per response token.
-- Grain: one row per offending example and branch; none when the mask can be trained on. Parameters: $mask_id.
SELECT members.example_id, links.branch, links.sequence_id, len(sequences.response_positions) AS num_response_tokens, len(kept.keep) AS num_flags
FROM record.masks AS masks
JOIN record.scorings AS scorings ON scorings.scoring_id = masks.scoring_id
JOIN record.snapshot_examples AS members ON members.snapshot_id = masks.snapshot_id
JOIN record.example_sequences AS links ON links.example_id = members.example_id AND links.tokenization_id = scorings.tokenization_id
LEFT JOIN record.sequences AS sequences ON sequences.sequence_id = links.sequence_id
LEFT JOIN record.mask_rows AS kept ON kept.sequence_id = links.sequence_id AND kept.mask_id = masks.mask_id
WHERE masks.mask_id = $mask_id
  AND links.sequence_id IS NOT NULL
  AND (
      sequences.token_ids IS NULL OR kept.keep IS NULL
      OR len(kept.keep) <> len(sequences.response_positions)
      OR list_count(kept.keep) <> len(kept.keep)
  )
ORDER BY members.example_id, links.branch
