-- How margin and weight of the pairs are distributed between two bounds, in bins of record.root_bin.
-- Grain: one row per column and bin that has pairs. Parameters: $names, $lows, $highs, $num_bins, as in report/histogram.
WITH long AS (
    SELECT 'pair_' || name AS name, value FROM (SELECT margin, weight FROM pairs) UNPIVOT (value FOR name IN (margin, weight))
),
bounds AS (
    SELECT name, low, high, record.signed_root(low) AS low_root, record.signed_root(high) AS high_root
    FROM (SELECT unnest($names::VARCHAR[]) AS name, unnest($lows::DOUBLE[]) AS low, unnest($highs::DOUBLE[]) AS high)
)
SELECT
    bounds.name, record.root_bin(value, low_root, high_root, $num_bins::INTEGER) AS bin,
    count(*) AS num_tokens, count(*) AS num_kept, count(*) FILTER (value < low OR value > high) AS num_outside
FROM long
JOIN bounds ON bounds.name = long.name
GROUP BY ALL
ORDER BY ALL
