-- The words of the vocabulary with the highest mean value, or the lowest, with the spread of the value over their occurrences.
-- Of the values only the lists of that column are read and joined, of the token ids those of the response.
-- Grain: one row per token of the vocabulary, the extreme mean first; tokens without a value are left out.
-- $column = adapt_direct: one of the columns of values, those of the signals included
-- $min_count = 5: how often a token must occur with a value
-- $end = highest: of which end: highest or lowest
-- $limit = 20: number of rows
-- $branch = all: responses of one branch: sft, chosen or rejected; all
WITH current AS (
    SELECT links.sequence_id, pairs.weight -- ω of a pair
    FROM record.snapshot_examples AS members
    JOIN record.example_sequences AS links ON links.example_id = members.example_id
    LEFT JOIN record.current_pairs AS pairs ON pairs.example_id = links.example_id
    WHERE members.snapshot_id = (SELECT value FROM record.pointers WHERE name = 'snapshot')
      AND links.tokenization_id = (SELECT value FROM record.pointers WHERE name = 'tokenization')
      AND links.sequence_id IS NOT NULL
      AND ($branch = 'all' OR links.branch = $branch)
),
scoring AS (
    SELECT * FROM record.scorings WHERE scoring_id = (SELECT value FROM record.pointers WHERE name = 'scoring')
),
lists AS (
    SELECT
        sequence_id, CASE WHEN $column::VARCHAR IN ('adapt_direct', 'stab_direct') THEN direct ELSE causal END AS list, true AS is_directional
    FROM record.direction_values
    WHERE $column::VARCHAR IN ('adapt_direct', 'adapt_causal', 'stab_direct', 'stab_causal')
      AND values_id = (SELECT CASE WHEN $column::VARCHAR LIKE 'adapt%' THEN adapt_values_id ELSE stab_values_id END FROM scoring)
    UNION ALL
    SELECT
        sequence_id, CASE $column::VARCHAR
            WHEN 'loss' THEN loss WHEN 'ref_loss' THEN loss WHEN 'entropy' THEN entropy
            WHEN 'margin' THEN margin WHEN 'el2n' THEN el2n WHEN 'grad_norm' THEN grad_norm
            ELSE error('there is no column of values ' || $column::VARCHAR || '; see token_values')
        END, false
    FROM record.signal_values
    WHERE $column::VARCHAR NOT IN ('adapt_direct', 'adapt_causal', 'stab_direct', 'stab_causal')
      AND signals_id = (SELECT CASE WHEN $column::VARCHAR = 'ref_loss' THEN ref_signals_id ELSE signals_id END FROM scoring)
),
contents AS (
    SELECT sequence_id, record.tokens_at(token_ids, response_positions) AS response_ids FROM record.sequences
),
long AS (
    SELECT
        unnest(contents.response_ids) AS token_id,
        unnest(CASE
            WHEN current.weight IS NULL OR NOT lists.is_directional THEN lists.list
            ELSE list_transform(lists.list, lambda x: (current.weight * x)::FLOAT)
        END) AS value
    FROM current
    JOIN lists ON lists.sequence_id = current.sequence_id
    JOIN contents ON contents.sequence_id = current.sequence_id
),
per_id AS (
    SELECT token_id, count(value) AS num_tokens, avg(value) AS mean_value, stddev_pop(value) AS deviation
    FROM long
    GROUP BY token_id
    HAVING count(value) >= greatest($min_count::BIGINT, 1)
)
SELECT vocabulary.token, per_id.token_id, per_id.num_tokens, per_id.mean_value, per_id.deviation
FROM per_id
LEFT JOIN record.vocabulary AS vocabulary
    ON vocabulary.token_id = per_id.token_id
    AND vocabulary.tokenizer_digest = (
        SELECT tokenizer_digest FROM record.tokenizations WHERE tokenization_id = (SELECT value FROM record.pointers WHERE name = 'tokenization')
    )
ORDER BY
    per_id.mean_value * CASE $end::VARCHAR
        WHEN 'highest' THEN -1 WHEN 'lowest' THEN 1 ELSE error('there is no end ' || $end::VARCHAR || ', only highest and lowest')
    END,
    per_id.token_id
LIMIT $limit::BIGINT
