-- How many sequences and tokens a stream of a mask holds, each once. Grain: one row. Parameters: $mask_id.
SELECT count(*)::BIGINT AS num_sequences, coalesce(sum(len(sequences.token_ids)), 0)::BIGINT AS num_tokens
FROM record.sequences AS sequences
JOIN record.mask_rows AS kept ON kept.sequence_id = sequences.sequence_id AND kept.mask_id = $mask_id
WHERE sequences.sequence_id IN (SELECT sequence_id FROM record.masked_sequences WHERE mask_id = $mask_id)
