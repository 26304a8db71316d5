-- What an export of a mask must hold: examples, sequences and, duplicates of an example counted, tokens with a loss (position 0 has none).
-- Grain: one row per branch. Parameters: $mask_id.
SELECT
    links.branch, count(DISTINCT members.example_id)::BIGINT AS num_examples, count(*)::BIGINT AS num_sequences,
    sum(members.multiplicity * len(sequences.token_ids))::BIGINT AS num_tokens,
    sum(members.multiplicity * len(list_filter(list_where(sequences.response_positions, kept.keep), lambda p: p > 0)))::BIGINT AS num_supervised
FROM record.masks AS masks
JOIN record.scorings AS scorings ON scorings.scoring_id = masks.scoring_id
JOIN record.snapshot_examples AS members ON members.snapshot_id = masks.snapshot_id
JOIN record.example_sequences AS links ON links.example_id = members.example_id AND links.tokenization_id = scorings.tokenization_id
JOIN record.sequences AS sequences ON sequences.sequence_id = links.sequence_id
JOIN record.mask_rows AS kept ON kept.sequence_id = links.sequence_id AND kept.mask_id = masks.mask_id
WHERE masks.mask_id = $mask_id
GROUP BY links.branch
ORDER BY links.branch
