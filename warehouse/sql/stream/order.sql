-- The sequences that training on a mask goes through, before they are shuffled, with the source that weights go by.
-- Grain: one row per example and branch of the mask's snapshot, in the stream's order. Parameters: $mask_id.
SELECT
    record.hex_id(masked.example_id) AS example_id, masked.branch, record.hex_id(masked.sequence_id) AS sequence_id, masked.multiplicity,
    masked.source
FROM record.masked_sequences AS masked
WHERE masked.mask_id = $mask_id
ORDER BY masked.example_id, masked.branch
