-- Whether all responses of a mask's pairs have soft weights, and losses under the reference model. Grain: one row. Parameters: $mask_id.
SELECT coalesce(bool_and(kept.weight IS NOT NULL), false) AS has_weights, coalesce(bool_and(signals.loss IS NOT NULL), false) AS has_reference
FROM record.masks AS masks
JOIN record.scorings AS scorings ON scorings.scoring_id = masks.scoring_id
JOIN record.snapshot_examples AS members ON members.snapshot_id = masks.snapshot_id
JOIN record.example_sequences AS links ON links.example_id = members.example_id AND links.tokenization_id = scorings.tokenization_id
JOIN record.mask_rows AS kept ON kept.sequence_id = links.sequence_id AND kept.mask_id = masks.mask_id
LEFT JOIN record.signal_values AS signals
    ON signals.sequence_id = links.sequence_id AND signals.signals_id = scorings.ref_signals_id
WHERE masks.mask_id = $mask_id AND links.branch IN ('chosen', 'rejected')
