-- What mask_sequences holds, with the number of response tokens, in the order of places. Grain: one row per sequence.
-- Parameters: $first_row: none of the sequences lies before it.
SELECT sequences.number, sequences.source_number, len(contents.response_positions)::BIGINT AS num_tokens
FROM record.sequences AS contents
JOIN mask_sequences AS sequences ON sequences.content_row = contents.rowid
WHERE contents.rowid >= $first_row
ORDER BY sequences.place
