-- Lists of values of one direction; a column that is not asked for is not read, and by the identity no row group of other values. Grain: one
-- row per sequence.
-- Parameters: $direct, $causal: which columns; $group: adapt or stab; $identity: of its values;
-- $first_row: none of the sequences lies before it, and DuckDB skips those row groups.
SELECT sequences.place, CASE WHEN $direct THEN stored.direct END AS direct, CASE WHEN $causal THEN stored.causal END AS causal
FROM record.direction_values AS stored
JOIN mask_sequences AS sequences ON stored.rowid = CASE $group WHEN 'adapt' THEN sequences.adapt_row ELSE sequences.stab_row END
WHERE stored.rowid >= $first_row
  AND stored.values_id = $identity
