-- Counts over a snapshot's sequences. Grain: one row. Parameters: $snapshot_id, $tokenization_id.
SELECT
    count(links.sequence_id) AS num_sequences,
    count(DISTINCT links.example_id) FILTER (links.sequence_id IS NULL) AS num_rejected,
    coalesce(sum(members.multiplicity) FILTER (links.sequence_id IS NULL), 0)::BIGINT AS num_rejected_rows,
    coalesce(sum(len(sequences.token_ids)), 0)::BIGINT AS num_tokens,
    coalesce(sum(len(sequences.response_positions)), 0)::BIGINT AS num_response_tokens,
    count(*) FILTER (links.num_prompt_tokens_cut > 0) AS num_prompts_cut,
    count(*) FILTER (links.num_response_tokens_cut > 0) AS num_responses_cut,
    coalesce(sum(links.num_prompt_tokens_cut), 0)::BIGINT AS num_prompt_tokens_cut,
    coalesce(sum(links.num_response_tokens_cut), 0)::BIGINT AS num_response_tokens_cut
FROM record.snapshot_examples AS members
JOIN record.example_sequences AS links ON links.example_id = members.example_id AND links.tokenization_id = $tokenization_id
LEFT JOIN record.sequences AS sequences ON sequences.sequence_id = links.sequence_id
WHERE members.snapshot_id = $snapshot_id
