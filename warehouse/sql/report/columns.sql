-- Each column of values over all response tokens: moments, share above 0, and the range that pictures show. The range holds 98% of the sizes
-- in 20,000 sequences (those with the smallest digests; all where there are fewer): from −high to high where both signs occur, else from 0.
-- Grain: one row per column that has a value.
WITH tokens AS (
    SELECT
        sequence_id, unnest(adapt_direct) AS adapt_direct, unnest(adapt_causal) AS adapt_causal, unnest(stab_direct) AS stab_direct,
        unnest(stab_causal) AS stab_causal, unnest(loss) AS loss, unnest(ref_loss) AS ref_loss, unnest(entropy) AS entropy,
        unnest(margin) AS margin, unnest(el2n) AS el2n, unnest(grad_norm) AS grad_norm
    FROM record.value_lists
),
few AS (
    SELECT sequence_id FROM (SELECT DISTINCT sequence_id FROM record.current_sequences) ORDER BY md5(record.hex_id(sequence_id)) LIMIT 20000
),
long AS (
    SELECT name, value::DOUBLE AS value, sequence_id IN (SELECT sequence_id FROM few) AS is_few
    FROM tokens
    UNPIVOT INCLUDE NULLS (value FOR name IN (
        adapt_direct, adapt_causal, stab_direct, stab_causal, loss, ref_loss, entropy, margin, el2n, grad_norm
    ))
),
summed AS (
    SELECT
        name, count(value) AS num_values, count(*) - count(value) AS num_null, min(value) AS lowest, max(value) AS highest,
        avg(value) AS mean, stddev_pop(value) AS deviation, avg((value > 0)::INTEGER) AS positive_share,
        quantile_disc(abs(value), 0.98) FILTER (is_few) AS size
    FROM long
    GROUP BY name
)
SELECT
    name, num_values, num_null, lowest, highest, mean, deviation, positive_share,
    CASE WHEN lowest < 0 THEN -coalesce(nullif(size, 0), 1) ELSE 0 END AS low,
    CASE WHEN highest > 0 OR lowest >= 0 THEN coalesce(nullif(size, 0), 1) ELSE 0 END AS high
FROM summed
WHERE num_values > 0
ORDER BY list_position(
    ['adapt_direct', 'adapt_causal', 'stab_direct', 'stab_causal', 'loss', 'ref_loss', 'entropy', 'margin', 'el2n', 'grad_norm'], name
)
