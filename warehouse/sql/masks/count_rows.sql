-- How many sequences of the current snapshot a mask has rows of. Grain: one row. Parameters: $mask_id.
SELECT count(*) FROM record.mask_rows WHERE mask_id = $mask_id AND sequence_id IN (SELECT sequence_id FROM record.current_sequences)
