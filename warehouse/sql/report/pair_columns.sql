-- Margin and weight over all pairs: moments, share above 0, and the range that pictures show. The range holds 98% of the sizes: of the margin
-- from −high to high, of the weight from 0 to β, which no weight exceeds.
-- Grain: one row per column; none where the examples are single responses.
WITH long AS (SELECT name, value, beta FROM pairs UNPIVOT (value FOR name IN (margin, weight)))
SELECT
    'pair_' || name AS name, count(*) AS num_values, 0 AS num_null, min(value) AS lowest, max(value) AS highest, avg(value) AS mean,
    stddev_pop(value) AS deviation, avg((value > 0)::INTEGER) AS positive_share,
    CASE name WHEN 'margin' THEN -coalesce(nullif(quantile_disc(abs(value), 0.98), 0), 1) ELSE 0 END AS low,
    CASE name WHEN 'margin' THEN coalesce(nullif(quantile_disc(abs(value), 0.98), 0), 1) ELSE any_value(beta) END AS high
FROM long
GROUP BY name
ORDER BY name
