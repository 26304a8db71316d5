-- The lists of one stored column. Grain: one row per sequence.
-- Parameters: $name: the column; $scoring: name of the pointer to the scoring; $first_row: none of the sequences lies before it; DuckDB skips the row groups before it.
SELECT sequences.place, lists.list
FROM mask_column($name, $scoring) AS lists
JOIN mask_sequences AS sequences ON sequences.sequence_id = lists.sequence_id
WHERE lists.row >= $first_row
