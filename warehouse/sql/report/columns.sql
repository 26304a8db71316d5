-- Each column of values over all response tokens: moments, share above 0, and the range that pictures show. The range holds 98% of the
-- sizes: from −high to high where both signs occur, else from 0.
-- Grain: one row per column that has a value.
WITH long AS (
    SELECT 'adapt_direct' AS name, unnest(adapt_direct)::DOUBLE AS value FROM record.value_lists
    UNION ALL SELECT 'adapt_causal', unnest(adapt_causal) FROM record.value_lists
    UNION ALL SELECT 'stab_direct', unnest(stab_direct) FROM record.value_lists
    UNION ALL SELECT 'stab_causal', unnest(stab_causal) FROM record.value_lists
    UNION ALL SELECT 'loss', unnest(loss) FROM record.value_lists
    UNION ALL SELECT 'ref_loss', unnest(ref_loss) FROM record.value_lists
    UNION ALL SELECT 'entropy', unnest(entropy) FROM record.value_lists
    UNION ALL SELECT 'margin', unnest(margin) FROM record.value_lists
    UNION ALL SELECT 'el2n', unnest(el2n) FROM record.value_lists
    UNION ALL SELECT 'grad_norm', unnest(grad_norm) FROM record.value_lists
),
summed AS (
    SELECT
        name, count(value) AS num_values, count(*) - count(value) AS num_null, min(value) AS lowest, max(value) AS highest,
        avg(value) AS mean, stddev_pop(value) AS deviation, avg((value > 0)::INTEGER) AS positive_share,
        quantile_disc(abs(value), 0.98) AS size, quantile_disc(abs(value), 0.5) AS median_size
    FROM long
    GROUP BY name
)
SELECT
    name, num_values, num_null, lowest, highest, mean, deviation, positive_share, median_size,
    CASE WHEN lowest < 0 THEN -coalesce(nullif(size, 0), 1) ELSE 0 END AS low,
    CASE WHEN highest > 0 OR lowest >= 0 THEN coalesce(nullif(size, 0), 1) ELSE 0 END AS high
FROM summed
WHERE num_values > 0
ORDER BY list_position(
    ['adapt_direct', 'adapt_causal', 'stab_direct', 'stab_causal', 'loss', 'ref_loss', 'entropy', 'margin', 'el2n', 'grad_norm'], name
)
