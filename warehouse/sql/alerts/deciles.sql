-- Deciles of the values of the current scoring and snapshot.
-- Grain: one row per column; `edges` is NULL where no token has a value.
WITH long AS (
    SELECT 'adapt_direct' AS name, unnest(adapt_direct) AS value FROM record.value_lists
    UNION ALL SELECT 'adapt_causal', unnest(adapt_causal) FROM record.value_lists
    UNION ALL SELECT 'stab_direct', unnest(stab_direct) FROM record.value_lists
    UNION ALL SELECT 'stab_causal', unnest(stab_causal) FROM record.value_lists
    UNION ALL SELECT 'loss', unnest(loss) FROM record.value_lists
    UNION ALL SELECT 'ref_loss', unnest(ref_loss) FROM record.value_lists
    UNION ALL SELECT 'entropy', unnest(entropy) FROM record.value_lists
)
SELECT name, quantile_disc(value, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]) AS edges
FROM long
GROUP BY name
ORDER BY name
