-- How far values moved from one scoring to another, over the response tokens that both valued: correlation of values and of ranks,
-- mean size of the change beside the mean size of the earlier value, share of tokens whose sign changed.
-- Ranks are counted, not sorted: values that differ by less than one part in 4,096 share one, and no correlation is given where all do.
-- Grain: one row per column of values that both have.
-- $scoring_before = previous: the earlier scoring: the beginning of its id, or `previous`: the newest that is not current
-- $scoring_after = current: the later one
-- $max_sequences = 100000: of how many sequences at most; those with the lowest ids, a random choice as ids are digests
WITH earlier AS (SELECT * FROM record.scorings WHERE scoring_id = $scoring_before),
later AS (SELECT * FROM record.scorings WHERE scoring_id = $scoring_after),
valued AS MATERIALIZED (
    SELECT sequence_id FROM record.direction_values WHERE values_id = (SELECT adapt_values_id FROM earlier)
    INTERSECT SELECT sequence_id FROM record.direction_values WHERE values_id = (SELECT stab_values_id FROM earlier)
    INTERSECT SELECT sequence_id FROM record.signal_values WHERE signals_id = (SELECT signals_id FROM earlier)
    INTERSECT SELECT sequence_id FROM record.signal_values WHERE signals_id = (SELECT ref_signals_id FROM earlier)
    INTERSECT SELECT sequence_id FROM record.direction_values WHERE values_id = (SELECT adapt_values_id FROM later)
    INTERSECT SELECT sequence_id FROM record.direction_values WHERE values_id = (SELECT stab_values_id FROM later)
    INTERSECT SELECT sequence_id FROM record.signal_values WHERE signals_id = (SELECT signals_id FROM later)
    INTERSECT SELECT sequence_id FROM record.signal_values WHERE signals_id = (SELECT ref_signals_id FROM later)
    ORDER BY sequence_id
    LIMIT $max_sequences::BIGINT
),
weights AS ( -- ω of pairs that have one, of the first of the examples that share a sequence
    SELECT
        links.sequence_id, arg_min(pairs.weight, links.example_id) FILTER (pairs.scoring_id = $scoring_before) AS old,
        arg_min(pairs.weight, links.example_id) FILTER (pairs.scoring_id = $scoring_after) AS new
    FROM record.pairs_all AS pairs
    JOIN record.example_sequences AS links ON links.example_id = pairs.example_id AND links.branch <> 'sft'
    WHERE pairs.scoring_id IN ($scoring_before, $scoring_after)
    GROUP BY links.sequence_id
),
directions AS NOT MATERIALIZED (
    SELECT
        kinds.number, weights.old AS old_weight, weights.new AS new_weight, old.direct AS old_direct, new.direct AS new_direct,
        old.causal AS old_causal, new.causal AS new_causal
    FROM (
        SELECT 1 AS number, earlier.adapt_values_id AS old_id, later.adapt_values_id AS new_id FROM earlier CROSS JOIN later
        UNION ALL SELECT 3, earlier.stab_values_id, later.stab_values_id FROM earlier CROSS JOIN later
    ) AS kinds
    JOIN record.direction_values AS old ON old.values_id = kinds.old_id
    SEMI JOIN valued ON valued.sequence_id = old.sequence_id
    JOIN record.direction_values AS new ON new.values_id = kinds.new_id AND new.sequence_id = old.sequence_id
    LEFT JOIN weights ON weights.sequence_id = old.sequence_id
),
signals AS NOT MATERIALIZED (
    SELECT
        kinds.number, old.loss AS old_loss, new.loss AS new_loss, old.entropy AS old_entropy, new.entropy AS new_entropy,
        old.margin AS old_margin, new.margin AS new_margin, old.el2n AS old_el2n, new.el2n AS new_el2n, old.grad_norm AS old_grad_norm,
        new.grad_norm AS new_grad_norm
    FROM (
        SELECT 5 AS number, earlier.signals_id AS old_id, later.signals_id AS new_id FROM earlier CROSS JOIN later
        UNION ALL SELECT 6, earlier.ref_signals_id, later.ref_signals_id FROM earlier CROSS JOIN later
    ) AS kinds
    JOIN record.signal_values AS old ON old.signals_id = kinds.old_id
    SEMI JOIN valued ON valued.sequence_id = old.sequence_id
    JOIN record.signal_values AS new ON new.signals_id = kinds.new_id AND new.sequence_id = old.sequence_id
),
long AS NOT MATERIALIZED (
    SELECT
        number, unnest(CASE WHEN old_weight IS NULL THEN old ELSE list_transform(old, lambda x: (old_weight * x)::FLOAT) END) AS old,
        unnest(CASE WHEN new_weight IS NULL THEN new ELSE list_transform(new, lambda x: (new_weight * x)::FLOAT) END) AS new
    FROM (
        SELECT number, old_weight, new_weight, old_direct AS old, new_direct AS new FROM directions
        UNION ALL SELECT number + 1, old_weight, new_weight, old_causal, new_causal FROM directions
    )
    UNION ALL SELECT number, unnest(old_loss), unnest(new_loss) FROM signals
    UNION ALL SELECT 7, unnest(old_entropy), unnest(new_entropy) FROM signals WHERE number = 5
    UNION ALL SELECT 8, unnest(old_margin), unnest(new_margin) FROM signals WHERE number = 5
    UNION ALL SELECT 9, unnest(old_el2n), unnest(new_el2n) FROM signals WHERE number = 5
    UNION ALL SELECT 10, unnest(old_grad_norm), unnest(new_grad_norm) FROM signals WHERE number = 5
),
keyed AS NOT MATERIALIZED (
    SELECT number, old, new, record.rank_key(old) AS old_key, record.rank_key(new) AS new_key
    FROM long
    WHERE old IS NOT NULL AND new IS NOT NULL
),
old_ranks AS ( -- twice the mean rank of those that share a key
    SELECT number, old_key, 2 * sum(count(*)) OVER (PARTITION BY number ORDER BY old_key) - count(*) AS rank FROM keyed GROUP BY number, old_key
),
new_ranks AS (
    SELECT number, new_key, 2 * sum(count(*)) OVER (PARTITION BY number ORDER BY new_key) - count(*) AS rank FROM keyed GROUP BY number, new_key
)
SELECT
    ['adapt_direct', 'adapt_causal', 'stab_direct', 'stab_causal', 'loss', 'ref_loss', 'entropy', 'margin', 'el2n', 'grad_norm'][keyed.number]
        AS "column",
    count(*) AS num_tokens,
    CASE WHEN stddev_pop(keyed.old) > 0 AND stddev_pop(keyed.new) > 0 THEN corr(keyed.old, keyed.new) END AS pearson,
    CASE WHEN stddev_pop(old_ranks.rank) > 0 AND stddev_pop(new_ranks.rank) > 0 THEN corr(old_ranks.rank, new_ranks.rank) END AS spearman,
    avg(abs(keyed.new - keyed.old)) AS mean_change, avg(abs(keyed.old)) AS mean_size,
    avg((sign(keyed.old) <> sign(keyed.new))::INTEGER) AS changed_sign_share
FROM keyed
JOIN old_ranks ON old_ranks.number = keyed.number AND old_ranks.old_key = keyed.old_key
JOIN new_ranks ON new_ranks.number = keyed.number AND new_ranks.new_key = keyed.new_key
GROUP BY keyed.number
ORDER BY keyed.number
