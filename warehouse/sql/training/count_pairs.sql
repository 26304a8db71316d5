-- Responses of preference examples that a mask decides on. Grain: one row. Parameters: $mask_id.
SELECT count(*)
FROM record.masks AS masks
JOIN record.scorings AS scorings ON scorings.scoring_id = masks.scoring_id
JOIN record.snapshot_examples AS members ON members.snapshot_id = masks.snapshot_id
JOIN record.example_sequences AS links ON links.example_id = members.example_id AND links.tokenization_id = scorings.tokenization_id
WHERE masks.mask_id = $mask_id AND links.branch <> 'sft'
