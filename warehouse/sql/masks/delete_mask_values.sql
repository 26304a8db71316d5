-- Remove the values of a mask that lacks its receipt. Parameters: $mask_id.
DELETE FROM record.mask_values WHERE mask_id = $mask_id
