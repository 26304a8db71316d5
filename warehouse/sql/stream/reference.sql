-- Losses of response tokens under the reference model, as the mask's scoring stored them: nats, aligned with the positions. Position 0 has none.
-- Grain: one row per example and branch of the mask's snapshot, in no order. Parameters: $mask_id.
SELECT
    record.hex_id(sequences.sequence_id) AS sequence_id, list_filter(sequences.response_positions, lambda position: position > 0) AS positions,
    CASE WHEN sequences.response_positions[1] = 0 THEN signals.loss[2:] ELSE signals.loss END AS losses
FROM record.masked_sequences AS masked
JOIN record.sequences AS sequences ON sequences.sequence_id = masked.sequence_id
JOIN record.signal_values AS signals ON signals.sequence_id = masked.sequence_id AND signals.signals_id = masked.ref_signals_id
WHERE masked.mask_id = $mask_id
