-- The response tokens of an example with each value and its place in its response: 1 is the highest; equal values share the first place,
-- NULL has none. Signals that the scoring was not asked for are left out.
-- Grain: one row per branch, position and column of values. Parameters: $example_id.
WITH long AS (
    SELECT branch, position, token, "column", value
    FROM (SELECT * FROM token_values WHERE example_id = $example_id)
    UNPIVOT INCLUDE NULLS (value FOR "column" IN (
        adapt_direct, adapt_causal, stab_direct, stab_causal, loss, ref_loss, entropy, margin, el2n, grad_norm
    ))
)
SELECT
    branch, position, token, "column", value,
    CASE WHEN value IS NOT NULL THEN rank() OVER (PARTITION BY branch, "column" ORDER BY value DESC NULLS LAST) END AS place,
    count(value) OVER (PARTITION BY branch, "column") AS num_values
FROM long
QUALIFY num_values > 0 OR "column" NOT IN ('margin', 'el2n', 'grad_norm')
ORDER BY
    branch, position,
    list_position(
        ['adapt_direct', 'adapt_causal', 'stab_direct', 'stab_causal', 'loss', 'ref_loss', 'entropy', 'margin', 'el2n', 'grad_norm'], "column"
    )
