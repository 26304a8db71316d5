-- Token ids of a mask's sequences, the positions the mask keeps (ascending) and their weights (NULL for a mask without),
-- and how many of them have a loss: nothing predicts position 0.
-- Grain: one row per sequence of the mask's snapshot, in no order. Parameters: $mask_id.
SELECT sequence_id, token_ids, kept_positions, kept_weights, len(kept_positions) - coalesce((kept_positions[1] = 0)::BIGINT, 0) AS num_supervised
FROM (
    SELECT
        sequences.sequence_id, sequences.token_ids, list_where(sequences.response_positions, kept.keep) AS kept_positions,
        list_where(kept.weight, kept.keep) AS kept_weights
    FROM record.sequences AS sequences
    JOIN record.mask_rows AS kept ON kept.sequence_id = sequences.sequence_id AND kept.mask_id = $mask_id
    WHERE sequences.sequence_id IN (
        SELECT links.sequence_id
        FROM record.masks AS masks
        JOIN record.scorings AS scorings ON scorings.scoring_id = masks.scoring_id
        JOIN record.snapshot_examples AS members ON members.snapshot_id = masks.snapshot_id
        JOIN record.example_sequences AS links
            ON links.example_id = members.example_id AND links.tokenization_id = scorings.tokenization_id
        WHERE masks.mask_id = $mask_id
    )
)
