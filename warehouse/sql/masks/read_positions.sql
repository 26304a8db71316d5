-- Response positions. Grain: one row per sequence.
SELECT sequences.place, contents.response_positions
FROM record.sequences AS contents
JOIN mask_sequences AS sequences ON sequences.sequence_id = contents.sequence_id
