-- Scorings: which model, directions, estimator and settings the values come from.
-- Grain: one row per scoring.
CREATE OR REPLACE VIEW scorings AS
SELECT
    scoring_id, scoring_id = (SELECT value FROM record.pointers WHERE name = 'scoring') AS is_current, tokenization_id,
    adapt_values_id, stab_values_id, signals_id, ref_signals_id, settings, run_id, created_at
FROM record.scorings
