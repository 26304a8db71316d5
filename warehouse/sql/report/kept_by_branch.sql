-- Share of response tokens that a mask keeps, by branch; a response that several pairs share counts once in each.
-- Grain: one row per branch. Parameters: $mask_id.
SELECT
    current.branch, count(*) AS num_sequences, sum(kept.num_tokens)::BIGINT AS num_tokens, sum(kept.num_kept)::BIGINT AS num_kept,
    sum(kept.num_kept) / nullif(sum(kept.num_tokens), 0) AS kept_share
FROM record.mask_rows AS kept
JOIN record.current_sequences AS current ON current.sequence_id = kept.sequence_id
WHERE kept.mask_id = $mask_id
GROUP BY current.branch
ORDER BY current.branch
