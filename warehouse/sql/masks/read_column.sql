-- The lists of one stored column. Grain: one row per sequence. Parameters: $name: the column.
SELECT sequences.place, lists.list
FROM mask_column($name) AS lists
JOIN mask_sequences AS sequences ON sequences.sequence_id = lists.sequence_id
