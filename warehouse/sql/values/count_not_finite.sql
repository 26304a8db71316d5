-- Values of the current scoring that should exist and are NULL: they came out infinite or NaN. Grain: one row.
SELECT count(*) FILTER (
    (position > 0 AND (adapt_direct IS NULL OR stab_direct IS NULL OR loss IS NULL OR ref_loss IS NULL OR entropy IS NULL))
    OR adapt_causal IS NULL OR stab_causal IS NULL
) AS num_not_finite
FROM token_values
