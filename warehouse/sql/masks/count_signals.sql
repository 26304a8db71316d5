-- How many of mask_sequences have each optional signal; one that is not asked about is not read. Grain: one row.
-- Parameters: $margin, $el2n, $grad_norm: whether to count it; $first_row: none of the sequences lies before it.
SELECT
    count(CASE WHEN $margin THEN signals.margin END) AS margin, count(CASE WHEN $el2n THEN signals.el2n END) AS el2n,
    count(CASE WHEN $grad_norm THEN signals.grad_norm END) AS grad_norm
FROM record.signal_values AS signals
JOIN mask_sequences ON mask_sequences.signals_row = signals.rowid
WHERE signals.rowid >= $first_row
