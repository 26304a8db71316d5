-- Token ids of a mask's sequences, the positions the mask keeps (ascending) and their weights (NULL for a mask without),
-- and how many of them have a loss: nothing predicts position 0.
-- Grain: one row per sequence of the mask's snapshot, in no order. Parameters: $mask_id.
SELECT
    record.hex_id(sequence_id) AS sequence_id, token_ids, kept_positions, kept_weights,
    len(kept_positions) - coalesce((kept_positions[1] = 0)::BIGINT, 0) AS num_supervised
FROM (
    SELECT
        sequences.sequence_id, sequences.token_ids, list_where(sequences.response_positions, kept.keep) AS kept_positions,
        list_where(kept.weight, kept.keep) AS kept_weights
    FROM record.sequences AS sequences
    JOIN record.mask_rows AS kept ON kept.sequence_id = sequences.sequence_id AND kept.mask_id = $mask_id
    WHERE sequences.sequence_id IN (SELECT sequence_id FROM record.masked_sequences WHERE mask_id = $mask_id)
)
