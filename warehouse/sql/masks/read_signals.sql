-- Lists of signals of one model; a column that is not asked for is not read, and by the identity no row group of other signals. Grain: one row
-- per sequence.
-- Parameters: $loss, $entropy, $margin, $el2n, $grad_norm: which columns; $group: signals or ref_signals;
-- $identity: of its signals; $first_row: none of the sequences lies before it, and DuckDB skips those row groups.
SELECT
    sequences.place, CASE WHEN $loss THEN stored.loss END AS loss, CASE WHEN $entropy THEN stored.entropy END AS entropy,
    CASE WHEN $margin THEN stored.margin END AS margin, CASE WHEN $el2n THEN stored.el2n END AS el2n,
    CASE WHEN $grad_norm THEN stored.grad_norm END AS grad_norm
FROM record.signal_values AS stored
JOIN mask_sequences AS sequences ON stored.rowid = CASE $group WHEN 'signals' THEN sequences.signals_row ELSE sequences.ref_signals_row END
WHERE stored.rowid >= $first_row
  AND stored.signals_id = $identity
