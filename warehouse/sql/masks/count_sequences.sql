-- Of mask_sequences: how many, how many have all four groups of values under a scoring, how many have each optional signal (one
-- that no policy asks about is not read), and from which row on each group's values lie in their table. Grain: one row.
-- Parameters: $scoring: name of the pointer to the scoring; $margin, $el2n, $grad_norm: whether to count it.
SELECT
    count(*) AS num_sequences, count(*) FILTER (adapt.sequence_id IS NOT NULL AND stab.sequence_id IS NOT NULL
        AND signals.sequence_id IS NOT NULL AND ref_signals.sequence_id IS NOT NULL) AS num_valued,
    count(CASE WHEN $margin THEN signals.margin END) AS margin,
    count(CASE WHEN $el2n THEN signals.el2n END) AS el2n,
    count(CASE WHEN $grad_norm THEN signals.grad_norm END) AS grad_norm,
    min(adapt.rowid) AS adapt_row, min(stab.rowid) AS stab_row, min(signals.rowid) AS signals_row, min(ref_signals.rowid) AS ref_signals_row
FROM mask_sequences
CROSS JOIN (SELECT * FROM record.scorings WHERE scoring_id = (SELECT value FROM record.pointers WHERE name = $scoring)) AS scorings
LEFT JOIN record.direction_values AS adapt
    ON adapt.values_id = scorings.adapt_values_id AND adapt.sequence_id = mask_sequences.sequence_id
LEFT JOIN record.direction_values AS stab
    ON stab.values_id = scorings.stab_values_id AND stab.sequence_id = mask_sequences.sequence_id
LEFT JOIN record.signal_values AS signals
    ON signals.signals_id = scorings.signals_id AND signals.sequence_id = mask_sequences.sequence_id
LEFT JOIN record.signal_values AS ref_signals
    ON ref_signals.signals_id = scorings.ref_signals_id AND ref_signals.sequence_id = mask_sequences.sequence_id
