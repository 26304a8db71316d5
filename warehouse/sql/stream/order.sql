-- The sequences that training on a mask goes through, before they are shuffled, with the source that weights go by.
-- Grain: one row per example and branch of the mask's snapshot, in the stream's order. Parameters: $mask_id.
SELECT members.example_id, links.branch, links.sequence_id, members.multiplicity, members.source
FROM record.masks AS masks
JOIN record.scorings AS scorings ON scorings.scoring_id = masks.scoring_id
JOIN record.snapshot_examples AS members ON members.snapshot_id = masks.snapshot_id
JOIN record.example_sequences AS links ON links.example_id = members.example_id AND links.tokenization_id = scorings.tokenization_id
WHERE masks.mask_id = $mask_id AND links.sequence_id IS NOT NULL
ORDER BY members.example_id, links.branch
