-- Flags and weights of masks that go.
DELETE FROM record.mask_values
WHERE mask_id NOT IN (SELECT mask_id FROM kept_masks)
