-- Losses of response tokens under the reference model, as the mask's scoring stored them: nats, aligned with the positions. Position 0 has none.
-- Grain: one row per example and branch of the mask's snapshot, in no order. Parameters: $mask_id.
SELECT
    sequences.sequence_id, list_filter(sequences.response_positions, lambda position: position > 0) AS positions,
    CASE WHEN sequences.response_positions[1] = 0 THEN signals.loss[2:] ELSE signals.loss END AS losses
FROM record.masks AS masks
JOIN record.scorings AS scorings ON scorings.scoring_id = masks.scoring_id
JOIN record.snapshot_examples AS members ON members.snapshot_id = masks.snapshot_id
JOIN record.example_sequences AS links ON links.example_id = members.example_id AND links.tokenization_id = scorings.tokenization_id
JOIN record.sequences AS sequences ON sequences.sequence_id = links.sequence_id
JOIN record.signal_values AS signals ON signals.sequence_id = links.sequence_id AND signals.signals_id = scorings.ref_signals_id
WHERE masks.mask_id = $mask_id
