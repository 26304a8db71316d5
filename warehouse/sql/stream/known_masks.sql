-- The masks of the warehouse, to name in an error. Grain: one row per mask.
SELECT mask_id, policy FROM record.masks ORDER BY policy, mask_id
