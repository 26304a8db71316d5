-- Remove a mask that lacks its receipt. Parameters: $mask_id.
DELETE FROM record.masks WHERE mask_id = $mask_id
