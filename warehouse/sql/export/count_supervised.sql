-- What an export of a mask must hold: examples, sequences and, duplicates of an example counted, tokens with a loss (position 0 has none).
-- Grain: one row per branch. Parameters: $mask_id.
SELECT
    masked.branch, count(DISTINCT masked.example_id)::BIGINT AS num_examples, count(*)::BIGINT AS num_sequences,
    sum(masked.multiplicity * len(sequences.token_ids))::BIGINT AS num_tokens,
    sum(masked.multiplicity * len(list_filter(list_where(sequences.response_positions, kept.keep), lambda p: p > 0)))::BIGINT AS num_supervised
FROM record.masked_sequences AS masked
JOIN record.sequences AS sequences ON sequences.sequence_id = masked.sequence_id
JOIN record.mask_rows AS kept ON kept.sequence_id = masked.sequence_id AND kept.mask_id = masked.mask_id
WHERE masked.mask_id = $mask_id
GROUP BY masked.branch
ORDER BY masked.branch
