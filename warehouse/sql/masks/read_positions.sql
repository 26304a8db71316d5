-- Response positions. Grain: one row per sequence. Parameters: $first_row: none of the sequences lies before it.
SELECT sequences.place, contents.response_positions
FROM record.sequences AS contents
JOIN mask_sequences AS sequences ON sequences.content_row = contents.rowid
WHERE contents.rowid >= $first_row
