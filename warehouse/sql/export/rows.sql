-- The sequences of a mask with the examples they come from. Grain: one row per example and branch of the mask's snapshot, in the stream's order.
-- Parameters: $mask_id; $branches, a list of the branches wanted.
SELECT
    members.example_id, links.branch, members.source, members.multiplicity, examples.content, links.sequence_id, links.num_response_tokens_cut,
    sequences.token_ids, sequences.response_positions, sequences.end_of_turn_positions, kept.keep, kept.weight
FROM record.masks AS masks
JOIN record.scorings AS scorings ON scorings.scoring_id = masks.scoring_id
JOIN record.snapshot_examples AS members ON members.snapshot_id = masks.snapshot_id
JOIN record.examples AS examples ON examples.example_id = members.example_id
JOIN record.example_sequences AS links ON links.example_id = members.example_id AND links.tokenization_id = scorings.tokenization_id
JOIN record.sequences AS sequences ON sequences.sequence_id = links.sequence_id
JOIN record.mask_rows AS kept ON kept.sequence_id = links.sequence_id AND kept.mask_id = masks.mask_id
WHERE masks.mask_id = $mask_id AND list_contains($branches, links.branch)
ORDER BY members.example_id, links.branch
