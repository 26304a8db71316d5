-- The rows of a mask. Weights are stored for soft policies alone. Grain: one row per sequence of mask_sequences.
-- Reads: incoming (place, keep, weight, num_tokens, num_kept). Parameters: $rows_id.
INSERT INTO record.mask_values (mask_id, sequence_id, keep, weight, num_tokens, num_kept)
SELECT $rows_id, sequences.sequence_id, incoming.keep, incoming.weight, incoming.num_tokens, incoming.num_kept
FROM incoming
JOIN mask_sequences AS sequences ON sequences.place = incoming.place
