-- Sequences of a mask that have soft weights beside their flags. Grain: one row. Parameters: $mask_id.
SELECT count(*) FROM record.mask_rows WHERE mask_id = $mask_id AND weight IS NOT NULL
