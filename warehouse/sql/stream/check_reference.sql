-- Sequences without a usable loss under the reference model for every response token that has one (that at position 0 has none).
-- Grain: one row per offending sequence; none when pairs can be trained on. Parameters: $mask_id.
SELECT DISTINCT record.hex_id(masked.sequence_id) AS sequence_id
FROM record.masked_sequences AS masked
JOIN record.sequences AS sequences ON sequences.sequence_id = masked.sequence_id
LEFT JOIN record.signal_values AS signals ON signals.sequence_id = masked.sequence_id AND signals.signals_id = masked.ref_signals_id
WHERE masked.mask_id = $mask_id
  AND (
      signals.loss IS NULL OR len(signals.loss) <> len(sequences.response_positions)
      OR len(list_filter(signals.loss, lambda loss, i: sequences.response_positions[i] > 0 AND NOT coalesce(isfinite(loss), false))) > 0
  )
ORDER BY sequence_id
