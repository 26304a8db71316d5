-- A mask that is complete: its row and its receipt are there. Grain: one row, or none. Parameters: $mask_id.
SELECT masks.num_tokens, masks.num_kept, receipts.num_rows
FROM record.masks AS masks
JOIN record.receipts AS receipts ON receipts.stage = 'mask' AND receipts.identity = masks.mask_id
WHERE masks.mask_id = $mask_id
