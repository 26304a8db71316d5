-- Flags and weights of masks and of sequences that go.
DELETE FROM record.mask_values
WHERE mask_id NOT IN (SELECT rows_id FROM kept_masks) OR sequence_id NOT IN (SELECT sequence_id FROM kept_links WHERE sequence_id IS NOT NULL)
