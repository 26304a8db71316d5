-- How far values moved from one scoring to another, over the response tokens that both valued: correlation of values and of ranks,
-- mean size of the change beside the mean size of the earlier value, share of tokens whose sign changed.
-- Grain: one row per column of values that both have.
-- $scoring_before = previous: the earlier scoring: the beginning of its id, or `previous`: the newest that is not current
-- $scoring_after = current: the later one
WITH pairs AS (
    SELECT DISTINCT ON (before.sequence_id) before.*, latter.* RENAME (
        sequence_id AS after_sequence_id, adapt_direct AS after_adapt_direct, adapt_causal AS after_adapt_causal,
        stab_direct AS after_stab_direct, stab_causal AS after_stab_causal, loss AS after_loss, ref_loss AS after_ref_loss,
        entropy AS after_entropy, margin AS after_margin, el2n AS after_el2n, grad_norm AS after_grad_norm
    )
    FROM (
        SELECT sequence_id, adapt_direct, adapt_causal, stab_direct, stab_causal, loss, ref_loss, entropy, margin, el2n, grad_norm
        FROM record.value_lists_all WHERE scoring_id = $scoring_before
    ) AS before
    JOIN (
        SELECT sequence_id, adapt_direct, adapt_causal, stab_direct, stab_causal, loss, ref_loss, entropy, margin, el2n, grad_norm
        FROM record.value_lists_all WHERE scoring_id = $scoring_after
    ) AS latter ON latter.sequence_id = before.sequence_id
),
long AS (
    SELECT 'adapt_direct' AS name, unnest(adapt_direct) AS old, unnest(after_adapt_direct) AS new FROM pairs
    UNION ALL SELECT 'adapt_causal', unnest(adapt_causal), unnest(after_adapt_causal) FROM pairs
    UNION ALL SELECT 'stab_direct', unnest(stab_direct), unnest(after_stab_direct) FROM pairs
    UNION ALL SELECT 'stab_causal', unnest(stab_causal), unnest(after_stab_causal) FROM pairs
    UNION ALL SELECT 'loss', unnest(loss), unnest(after_loss) FROM pairs
    UNION ALL SELECT 'ref_loss', unnest(ref_loss), unnest(after_ref_loss) FROM pairs
    UNION ALL SELECT 'entropy', unnest(entropy), unnest(after_entropy) FROM pairs
    UNION ALL SELECT 'margin', unnest(margin), unnest(after_margin) FROM pairs
    UNION ALL SELECT 'el2n', unnest(el2n), unnest(after_el2n) FROM pairs
    UNION ALL SELECT 'grad_norm', unnest(grad_norm), unnest(after_grad_norm) FROM pairs
),
ranked AS ( -- among equals, the first has rank() and the last the running count: their sum is twice the average rank
    SELECT
        name, old, new,
        rank() OVER by_old + count(*) OVER by_old AS old_rank, rank() OVER by_new + count(*) OVER by_new AS new_rank
    FROM long
    WHERE old IS NOT NULL AND new IS NOT NULL
    WINDOW by_old AS (PARTITION BY name ORDER BY old), by_new AS (PARTITION BY name ORDER BY new)
)
SELECT
    name AS "column", count(*) AS num_tokens,
    CASE WHEN stddev_pop(old) > 0 AND stddev_pop(new) > 0 THEN corr(old, new) END AS pearson,
    CASE WHEN stddev_pop(old_rank) > 0 AND stddev_pop(new_rank) > 0 THEN corr(old_rank, new_rank) END AS spearman,
    avg(abs(new - old)) AS mean_change, avg(abs(old)) AS mean_size, avg((sign(old) <> sign(new))::INTEGER) AS changed_sign_share
FROM ranked
GROUP BY name
ORDER BY list_position(
    ['adapt_direct', 'adapt_causal', 'stab_direct', 'stab_causal', 'loss', 'ref_loss', 'entropy', 'margin', 'el2n', 'grad_norm'], name
)
