-- The words of the vocabulary with the highest mean value, or the lowest, with the spread of the value over their occurrences.
-- Grain: one row per token of the vocabulary, the extreme mean first; tokens without a value are left out.
-- $column = adapt_direct: one of the columns of values, those of the signals included
-- $min_count = 5: how often a token must occur with a value
-- $end = highest: of which end: highest or lowest
-- $limit = 20: number of rows
-- $branch = all: responses of one branch: sft, chosen or rejected; all
WITH long AS (
    SELECT
        tokenizer_digest, unnest(list_select(token_ids, list_transform(response_positions, lambda p: p + 1))) AS token_id,
        unnest(CASE $column::VARCHAR
            WHEN 'adapt_direct' THEN adapt_direct WHEN 'adapt_causal' THEN adapt_causal
            WHEN 'stab_direct' THEN stab_direct WHEN 'stab_causal' THEN stab_causal
            WHEN 'loss' THEN loss WHEN 'ref_loss' THEN ref_loss WHEN 'entropy' THEN entropy
            WHEN 'margin' THEN margin WHEN 'el2n' THEN el2n WHEN 'grad_norm' THEN grad_norm
            ELSE error('there is no column of values ' || $column::VARCHAR || '; see token_values')
        END) AS value
    FROM record.value_lists
    WHERE ($branch = 'all' OR branch = $branch)
),
per_id AS (
    SELECT tokenizer_digest, token_id, count(value) AS num_tokens, avg(value) AS mean_value, stddev_pop(value) AS deviation
    FROM long
    GROUP BY ALL
    HAVING count(value) >= greatest($min_count::BIGINT, 1)
)
SELECT vocabulary.token, per_id.token_id, per_id.num_tokens, per_id.mean_value, per_id.deviation
FROM per_id
LEFT JOIN record.vocabulary AS vocabulary
    ON vocabulary.tokenizer_digest = per_id.tokenizer_digest AND vocabulary.token_id = per_id.token_id
ORDER BY
    per_id.mean_value * CASE $end::VARCHAR
        WHEN 'highest' THEN -1 WHEN 'lowest' THEN 1 ELSE error('there is no end ' || $end::VARCHAR || ', only highest and lowest')
    END,
    per_id.token_id
LIMIT $limit::BIGINT
