-- Identities of values and signals of no scoring at all: what an interrupted run left. Unless $unfinished their rows stay, those of sequences
-- that no living snapshot has as well: when the data come back they need not be valued again.
-- Grain: one row per identity. Parameters: $unfinished.
CREATE OR REPLACE TEMP TABLE unfinished_values AS
SELECT values_id
FROM (
    SELECT DISTINCT values_id FROM record.direction_values
    UNION
    SELECT DISTINCT signals_id FROM record.signal_values
)
WHERE NOT $unfinished::BOOLEAN
  AND values_id NOT IN (SELECT unnest([adapt_values_id, stab_values_id, signals_id, ref_signals_id]) FROM record.scorings)
