-- Whether all responses of a mask's pairs have soft weights, and losses under the reference model. Grain: one row. Parameters: $mask_id.
SELECT coalesce(bool_and(kept.weight IS NOT NULL), false) AS has_weights, coalesce(bool_and(signals.loss IS NOT NULL), false) AS has_reference
FROM record.masked_sequences AS masked
JOIN record.mask_rows AS kept ON kept.sequence_id = masked.sequence_id AND kept.mask_id = masked.mask_id
LEFT JOIN record.signal_values AS signals
    ON signals.sequence_id = masked.sequence_id AND signals.signals_id = masked.ref_signals_id
WHERE masked.mask_id = $mask_id AND masked.branch IN ('chosen', 'rejected')
