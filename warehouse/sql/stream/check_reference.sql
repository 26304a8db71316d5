-- Sequences without a usable loss under the reference model for every response token that has one (that at position 0 has none).
-- Grain: one row per offending sequence; none when pairs can be trained on. Parameters: $mask_id.
SELECT DISTINCT links.sequence_id
FROM record.masks AS masks
JOIN record.scorings AS scorings ON scorings.scoring_id = masks.scoring_id
JOIN record.snapshot_examples AS members ON members.snapshot_id = masks.snapshot_id
JOIN record.example_sequences AS links ON links.example_id = members.example_id AND links.tokenization_id = scorings.tokenization_id
JOIN record.sequences AS sequences ON sequences.sequence_id = links.sequence_id
LEFT JOIN record.signal_values AS signals
    ON signals.sequence_id = links.sequence_id AND signals.signals_id = scorings.ref_signals_id
WHERE masks.mask_id = $mask_id
  AND (
      signals.loss IS NULL OR len(signals.loss) <> len(sequences.response_positions)
      OR len(list_filter(signals.loss, lambda loss, i: sequences.response_positions[i] > 0 AND NOT coalesce(isfinite(loss), false))) > 0
  )
ORDER BY links.sequence_id
