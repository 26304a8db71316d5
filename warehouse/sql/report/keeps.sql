-- What one mask keeps of some sequences. Grain: one row per sequence. Parameters: $mask_id, $sequence_ids.
SELECT record.hex_id(sequence_id) AS sequence_id, keep
FROM record.mask_rows
WHERE mask_id = $mask_id AND sequence_id IN (SELECT unnest($sequence_ids::UUID[]))
