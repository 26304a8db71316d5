-- Share of response tokens that a policy keeps, by tenth of the response: 1 is its beginning, 10 its end. A response of fewer than ten
-- tokens fills some tenths only.
-- Grain: one row per tenth that has tokens.
-- $policy = default: whose mask
-- $branch = all: responses of one branch: sft, chosen or rejected; all
WITH long AS (
    SELECT len(kept.keep) AS num_tokens, unnest(range(len(kept.keep))) AS place, unnest(kept.keep) AS keep
    FROM masks
    JOIN record.mask_rows AS kept ON kept.mask_id = masks.mask_id
    JOIN record.current_sequences AS current ON current.sequence_id = kept.sequence_id
    WHERE masks.is_current AND masks.policy = $policy AND ($branch = 'all' OR current.branch = $branch)
)
SELECT
    10 * place // num_tokens + 1 AS decile, count(*) AS num_tokens, count(*) FILTER (keep) AS num_kept, avg(keep::INTEGER) AS kept_share
FROM long
GROUP BY decile
ORDER BY decile
