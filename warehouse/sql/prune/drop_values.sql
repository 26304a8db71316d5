-- Identities of values and signals that go: those of scorings that go alone, and, if $unfinished, those of no scoring at all.
-- Grain: one row per identity. Parameters: $unfinished.
CREATE OR REPLACE TEMP TABLE pruned_values AS
WITH there AS (
    SELECT DISTINCT values_id FROM record.direction_values
    UNION
    SELECT DISTINCT signals_id FROM record.signal_values
),
used AS (
    SELECT scoring_id, unnest([adapt_values_id, stab_values_id, signals_id, ref_signals_id]) AS values_id FROM record.scorings
)
SELECT values_id
FROM there
WHERE values_id NOT IN (SELECT values_id FROM used SEMI JOIN kept_scorings ON kept_scorings.scoring_id = used.scoring_id)
  AND ($unfinished::BOOLEAN OR values_id IN (SELECT values_id FROM used))
