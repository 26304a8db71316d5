-- How many sequences and tokens a stream of a mask holds, each once. Grain: one row. Parameters: $mask_id.
SELECT count(*)::BIGINT AS num_sequences, coalesce(sum(len(sequences.token_ids)), 0)::BIGINT AS num_tokens
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
