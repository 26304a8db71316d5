-- The sequences of a mask with the examples they come from. Grain: one row per example and branch of the mask's snapshot, in the stream's order.
-- Parameters: $mask_id; $branches, a list of the branches wanted.
SELECT
    record.hex_id(masked.example_id) AS example_id, masked.branch, masked.source, masked.multiplicity, examples.content,
    record.hex_id(masked.sequence_id) AS sequence_id, masked.num_response_tokens_cut, sequences.token_ids,
    sequences.response_positions, sequences.end_of_turn_positions, kept.keep, kept.weight
FROM record.masked_sequences AS masked
JOIN record.examples AS examples ON examples.example_id = masked.example_id
JOIN record.sequences AS sequences ON sequences.sequence_id = masked.sequence_id
JOIN record.mask_rows AS kept ON kept.sequence_id = masked.sequence_id AND kept.mask_id = masked.mask_id
WHERE masked.mask_id = $mask_id AND list_contains($branches, masked.branch)
ORDER BY masked.example_id, masked.branch
