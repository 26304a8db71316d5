-- Response tokens between given edges, of the current scoring and snapshot, or of those of its examples that another snapshot lacks.
-- Grain: one row per column; `bins` maps the upper end of a bin (included; infinity for the last) to its tokens, empty bins left out.
-- Parameters: $without, a snapshot whose examples are left out (NULL counts all); rising edges of each column: $adapt_direct, $adapt_causal,
-- $stab_direct, $stab_causal, $loss, $ref_loss, $entropy.
WITH chosen AS (
    SELECT * FROM record.value_lists
    WHERE $without::VARCHAR IS NULL
       OR example_id NOT IN (SELECT example_id FROM record.snapshot_examples WHERE snapshot_id = $without::VARCHAR)
)
SELECT 'adapt_direct' AS name, count(*) AS num_tokens, count(value) AS num_values, histogram(value, $adapt_direct::FLOAT[]) AS bins
FROM (SELECT unnest(adapt_direct) AS value FROM chosen)
UNION ALL SELECT 'adapt_causal', count(*), count(value), histogram(value, $adapt_causal::FLOAT[]) FROM (SELECT unnest(adapt_causal) AS value FROM chosen)
UNION ALL SELECT 'stab_direct', count(*), count(value), histogram(value, $stab_direct::FLOAT[]) FROM (SELECT unnest(stab_direct) AS value FROM chosen)
UNION ALL SELECT 'stab_causal', count(*), count(value), histogram(value, $stab_causal::FLOAT[]) FROM (SELECT unnest(stab_causal) AS value FROM chosen)
UNION ALL SELECT 'loss', count(*), count(value), histogram(value, $loss::FLOAT[]) FROM (SELECT unnest(loss) AS value FROM chosen)
UNION ALL SELECT 'ref_loss', count(*), count(value), histogram(value, $ref_loss::FLOAT[]) FROM (SELECT unnest(ref_loss) AS value FROM chosen)
UNION ALL SELECT 'entropy', count(*), count(value), histogram(value, $entropy::FLOAT[]) FROM (SELECT unnest(entropy) AS value FROM chosen)
