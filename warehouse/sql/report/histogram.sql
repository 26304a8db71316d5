-- How the values of each column are distributed between two bounds, in bins of record.root_bin, and how many of each bin a mask keeps.
-- Grain: one row per column and bin that has tokens.
-- Parameters: $names, $lows, $highs (a column and its bounds at the same place of each), $num_bins, $mask_id (NULL: none, nothing is kept).
WITH tokens AS (
    SELECT
        unnest(kept.keep) AS keep, unnest(adapt_direct) AS adapt_direct, unnest(adapt_causal) AS adapt_causal,
        unnest(stab_direct) AS stab_direct, unnest(stab_causal) AS stab_causal, unnest(loss) AS loss, unnest(ref_loss) AS ref_loss,
        unnest(entropy) AS entropy, unnest(margin) AS margin, unnest(el2n) AS el2n, unnest(grad_norm) AS grad_norm
    FROM record.value_lists AS values_
    LEFT JOIN record.mask_rows AS kept ON kept.mask_id = $mask_id::VARCHAR AND kept.sequence_id = values_.sequence_id
),
long AS (
    SELECT name, value::DOUBLE AS value, keep
    FROM tokens
    UNPIVOT (value FOR name IN (adapt_direct, adapt_causal, stab_direct, stab_causal, loss, ref_loss, entropy, margin, el2n, grad_norm))
),
bounds AS (
    SELECT name, low, high, record.signed_root(low) AS low_root, record.signed_root(high) AS high_root
    FROM (SELECT unnest($names::VARCHAR[]) AS name, unnest($lows::DOUBLE[]) AS low, unnest($highs::DOUBLE[]) AS high)
)
SELECT
    bounds.name, record.root_bin(value, low_root, high_root, $num_bins::INTEGER) AS bin,
    count(*) AS num_tokens, count(*) FILTER (keep) AS num_kept, count(*) FILTER (value < low OR value > high) AS num_outside
FROM long
JOIN bounds ON bounds.name = long.name
GROUP BY ALL
ORDER BY ALL
