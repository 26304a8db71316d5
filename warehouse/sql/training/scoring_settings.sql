-- Settings of the scoring behind a mask. Grain: one row. Parameters: $mask_id.
SELECT scorings.settings
FROM record.masks AS masks
JOIN record.scorings AS scorings ON scorings.scoring_id = masks.scoring_id
WHERE masks.mask_id = $mask_id
