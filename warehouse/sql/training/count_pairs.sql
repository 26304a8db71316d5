-- Responses of preference examples that a mask decides on. Grain: one row. Parameters: $mask_id.
SELECT count(*)
FROM record.masked_sequences AS masked
WHERE masked.mask_id = $mask_id AND masked.branch <> 'sft'
