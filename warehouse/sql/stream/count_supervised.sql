-- How many tokens one pass over a mask supervises: kept response tokens, duplicates of an example counted, position 0 not.
-- Grain: one row. Parameters: $mask_id.
SELECT coalesce(sum(members.multiplicity * (
    len(list_filter(kept.keep, lambda flag: flag)) - (kept.keep[1] AND sequences.response_positions[1] = 0)::BIGINT
)), 0)::BIGINT
FROM record.masks AS masks
JOIN record.scorings AS scorings ON scorings.scoring_id = masks.scoring_id
JOIN record.snapshot_examples AS members ON members.snapshot_id = masks.snapshot_id
JOIN record.example_sequences AS links ON links.example_id = members.example_id AND links.tokenization_id = scorings.tokenization_id
JOIN record.sequences AS sequences ON sequences.sequence_id = links.sequence_id
JOIN record.mask_rows AS kept ON kept.sequence_id = links.sequence_id AND kept.mask_id = masks.mask_id
WHERE masks.mask_id = $mask_id
