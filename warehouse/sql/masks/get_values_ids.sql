-- Identities of the four groups of values of a scoring. Grain: one row. Parameters: $scoring_id.
SELECT adapt_values_id, stab_values_id, signals_id, ref_signals_id
FROM record.scorings
WHERE scoring_id = $scoring_id
