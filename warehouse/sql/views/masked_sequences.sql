-- The sequences that a mask is of: those of its snapshot under the tokenization of its scoring.
-- Grain: one row per mask, example and branch.
CREATE OR REPLACE VIEW record.masked_sequences AS
SELECT
    masks.mask_id, members.example_id, members.source, members.multiplicity, links.branch, links.sequence_id, links.num_response_tokens_cut,
    scorings.ref_signals_id
FROM record.masks AS masks
JOIN record.scorings AS scorings ON scorings.scoring_id = masks.scoring_id
JOIN record.snapshot_examples AS members ON members.snapshot_id = masks.snapshot_id
JOIN record.example_sequences AS links ON links.example_id = members.example_id AND links.tokenization_id = scorings.tokenization_id
WHERE links.sequence_id IS NOT NULL
