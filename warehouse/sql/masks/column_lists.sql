-- The lists of one stored column, as a table macro mask_column(name, scoring), scoring being the name of the pointer to the scoring. Only that column is read.
-- Grain: one row per sequence that has values, of whatever snapshot.
CREATE OR REPLACE TEMP MACRO mask_column(name, scoring) AS TABLE
SELECT direction_values.rowid AS row, direction_values.sequence_id, CASE WHEN name IN ('adapt_direct', 'stab_direct') THEN direct ELSE causal END AS list
FROM record.direction_values
JOIN record.scorings
    ON direction_values.values_id
        = CASE WHEN name IN ('adapt_direct', 'adapt_causal') THEN scorings.adapt_values_id ELSE scorings.stab_values_id END
WHERE name IN ('adapt_direct', 'adapt_causal', 'stab_direct', 'stab_causal')
  AND scorings.scoring_id = (SELECT value FROM record.pointers WHERE pointers.name = scoring)
UNION ALL
SELECT
    signal_values.rowid, signal_values.sequence_id,
    CASE name
        WHEN 'entropy' THEN entropy WHEN 'margin' THEN margin WHEN 'el2n' THEN el2n WHEN 'grad_norm' THEN grad_norm ELSE loss
    END
FROM record.signal_values
JOIN record.scorings
    ON signal_values.signals_id = CASE WHEN name = 'ref_loss' THEN scorings.ref_signals_id ELSE scorings.signals_id END
WHERE name IN ('loss', 'ref_loss', 'entropy', 'margin', 'el2n', 'grad_norm')
  AND scorings.scoring_id = (SELECT value FROM record.pointers WHERE pointers.name = scoring)
