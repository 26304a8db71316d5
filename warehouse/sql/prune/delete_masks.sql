-- Masks that go.
DELETE FROM record.masks
WHERE mask_id NOT IN (SELECT mask_id FROM kept_masks)
