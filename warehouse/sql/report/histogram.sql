-- How the values of each column are distributed between two bounds, and how many of each bin a mask keeps. Bins are equal in the square root
-- of the size (with the value's sign), so that values near 0, which are most, have several. What lies outside is in the first and last bin.
-- Grain: one row per column and bin that has tokens.
-- Parameters: $names, $lows, $highs (a column and its bounds at the same place of each), $num_bins, $mask_id (NULL: none, nothing is kept).
WITH lists AS (
    SELECT values_.*, kept.keep
    FROM record.value_lists AS values_
    LEFT JOIN record.mask_values AS kept ON kept.mask_id = $mask_id::VARCHAR AND kept.sequence_id = values_.sequence_id
),
long AS (
    SELECT 'adapt_direct' AS name, unnest(adapt_direct)::DOUBLE AS value, unnest(keep) AS keep FROM lists
    UNION ALL SELECT 'adapt_causal', unnest(adapt_causal), unnest(keep) FROM lists
    UNION ALL SELECT 'stab_direct', unnest(stab_direct), unnest(keep) FROM lists
    UNION ALL SELECT 'stab_causal', unnest(stab_causal), unnest(keep) FROM lists
    UNION ALL SELECT 'loss', unnest(loss), unnest(keep) FROM lists
    UNION ALL SELECT 'ref_loss', unnest(ref_loss), unnest(keep) FROM lists
    UNION ALL SELECT 'entropy', unnest(entropy), unnest(keep) FROM lists
    UNION ALL SELECT 'margin', unnest(margin), unnest(keep) FROM lists
    UNION ALL SELECT 'el2n', unnest(el2n), unnest(keep) FROM lists
    UNION ALL SELECT 'grad_norm', unnest(grad_norm), unnest(keep) FROM lists
),
bounds AS (
    SELECT name, low, high, sign(low) * sqrt(abs(low)) AS first_root, sign(high) * sqrt(abs(high)) AS last_root
    FROM (SELECT unnest($names::VARCHAR[]) AS name, unnest($lows::DOUBLE[]) AS low, unnest($highs::DOUBLE[]) AS high)
)
SELECT
    bounds.name,
    greatest(0, least(
        $num_bins::INTEGER - 1, floor((sign(value) * sqrt(abs(value)) - first_root) / (last_root - first_root) * $num_bins::INTEGER)
    ))::INTEGER AS bin,
    count(*) AS num_tokens, count(*) FILTER (keep) AS num_kept, count(*) FILTER (value < low OR value > high) AS num_outside
FROM long
JOIN bounds ON bounds.name = long.name
WHERE value IS NOT NULL
GROUP BY ALL
ORDER BY ALL
