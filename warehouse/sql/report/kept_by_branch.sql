-- Share of response tokens that a mask keeps, by branch; a response that several pairs share counts once in each.
-- Grain: one row per branch. Parameters: $mask_id.
SELECT
    current.branch, count(*) AS num_sequences, sum(len(kept.keep))::BIGINT AS num_tokens,
    sum(len(list_filter(kept.keep, lambda k: k)))::BIGINT AS num_kept,
    sum(len(list_filter(kept.keep, lambda k: k))) / nullif(sum(len(kept.keep)), 0) AS kept_share
FROM record.mask_rows AS kept
JOIN record.current_sequences AS current ON current.sequence_id = kept.sequence_id
WHERE kept.mask_id = $mask_id
GROUP BY current.branch
ORDER BY current.branch
