-- The lists of one stored column; only that column is read, and by the identity of its values no row group of others. Grain: one row per
-- sequence.
-- Parameters: $name: the column; $scoring: name of the pointer to the scoring; $first_row: none of the sequences lies before it; DuckDB skips the row groups before it.
SELECT sequences.place, CASE WHEN $name IN ('adapt_direct', 'stab_direct') THEN stored.direct ELSE stored.causal END AS list
FROM record.direction_values AS stored
JOIN mask_sequences AS sequences
    ON stored.rowid = CASE WHEN $name IN ('adapt_direct', 'adapt_causal') THEN sequences.adapt_row ELSE sequences.stab_row END
WHERE $name IN ('adapt_direct', 'adapt_causal', 'stab_direct', 'stab_causal')
  AND stored.rowid >= $first_row
  AND stored.values_id = (
      SELECT CASE WHEN $name IN ('adapt_direct', 'adapt_causal') THEN scorings.adapt_values_id ELSE scorings.stab_values_id END
      FROM record.scorings
      WHERE scorings.scoring_id = (SELECT value FROM record.pointers WHERE pointers.name = $scoring)
  )
UNION ALL
SELECT
    sequences.place,
    CASE $name
        WHEN 'entropy' THEN stored.entropy WHEN 'margin' THEN stored.margin WHEN 'el2n' THEN stored.el2n
        WHEN 'grad_norm' THEN stored.grad_norm ELSE stored.loss
    END
FROM record.signal_values AS stored
JOIN mask_sequences AS sequences
    ON stored.rowid = CASE WHEN $name = 'ref_loss' THEN sequences.ref_signals_row ELSE sequences.signals_row END
WHERE $name IN ('loss', 'ref_loss', 'entropy', 'margin', 'el2n', 'grad_norm')
  AND stored.rowid >= $first_row
  AND stored.signals_id = (
      SELECT CASE WHEN $name = 'ref_loss' THEN scorings.ref_signals_id ELSE scorings.signals_id END
      FROM record.scorings
      WHERE scorings.scoring_id = (SELECT value FROM record.pointers WHERE pointers.name = $scoring)
  )
