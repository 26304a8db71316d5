-- Response tokens and those kept, by policy and source, over the current snapshot; policies that keep everything are left out.
-- Grain: one row per policy and source; NULL is the source of examples that name none.
SELECT
    masks.policy, current.source, sum(kept.num_tokens)::BIGINT AS num_tokens, sum(kept.num_kept)::BIGINT AS num_kept
FROM masks
JOIN record.mask_rows AS kept ON kept.mask_id = masks.mask_id
JOIN record.current_sequences AS current ON current.sequence_id = kept.sequence_id
WHERE masks.is_current AND masks.num_kept < masks.num_tokens
GROUP BY masks.policy, current.source
ORDER BY masks.policy, current.source
