-- How many tokens each scope keeps, before the minimum of each response: ceil($keep * eligible), or those whose score reaches $threshold.
-- ceil: 0.07 * 100 is 7.000000000000001 in binary; a relative 1e-12 is taken off first, far above that noise and far below one token.
-- The threshold is rounded as the scores are.
-- Grain: one row per scope. Parameters: $keep; $threshold: NULL to keep a share.
CREATE OR REPLACE TEMP TABLE mask_counts AS
SELECT
    select_group,
    CASE
        WHEN $threshold::DOUBLE IS NULL THEN ceil($keep::DOUBLE * sum(list_count(scores)) * (1 - 1e-12::DOUBLE))::BIGINT
        ELSE sum(len(list_filter(scores, lambda s: s >= $threshold::DOUBLE * 65537 - ($threshold::DOUBLE * 65537 - $threshold::DOUBLE))))::BIGINT
    END AS num_kept
FROM mask_scores
GROUP BY select_group
