-- Where the two aims disagree: response tokens by the signs of their adaptation and stability values (direct + causal). A token with + and
-- - teaches the target and costs what the model could do before.
-- Grain: one row per pair of signs that occurs; NULL where a value is missing.
-- $policy = default: whose mask tells how many are kept
-- $branch = all: responses of one branch: sft, chosen or rejected; all
WITH long AS (
    SELECT
        unnest(list_transform(values_.adapt_direct, lambda x, i: x::DOUBLE + values_.adapt_causal[i])) AS adapt,
        unnest(list_transform(values_.stab_direct, lambda x, i: x::DOUBLE + values_.stab_causal[i])) AS stab,
        unnest(kept.keep) AS keep
    FROM record.value_lists AS values_
    JOIN masks ON masks.is_current AND masks.policy = $policy
    JOIN record.mask_rows AS kept ON kept.mask_id = masks.mask_id AND kept.sequence_id = values_.sequence_id
    WHERE ($branch = 'all' OR values_.branch = $branch)
)
SELECT
    ['-', '0', '+'][sign(adapt)::INTEGER + 2] AS adaptation, ['-', '0', '+'][sign(stab)::INTEGER + 2] AS stability,
    count(*) AS num_tokens, count(*) / sum(count(*)) OVER () AS share, avg(keep::INTEGER) AS kept_share,
    avg(adapt) AS mean_adaptation, avg(stab) AS mean_stability
FROM long
GROUP BY ALL
ORDER BY num_tokens DESC, adaptation, stability
