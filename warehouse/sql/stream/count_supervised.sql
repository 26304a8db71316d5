-- How many tokens one pass over a mask supervises: kept response tokens, duplicates of an example counted, position 0 not.
-- Grain: one row. Parameters: $mask_id.
SELECT coalesce(sum(masked.multiplicity * (
    len(list_filter(kept.keep, lambda flag: flag)) - (kept.keep[1] AND sequences.response_positions[1] = 0)::BIGINT
)), 0)::BIGINT
FROM record.masked_sequences AS masked
JOIN record.sequences AS sequences ON sequences.sequence_id = masked.sequence_id
JOIN record.mask_rows AS kept ON kept.sequence_id = masked.sequence_id AND kept.mask_id = masked.mask_id
WHERE masked.mask_id = $mask_id
