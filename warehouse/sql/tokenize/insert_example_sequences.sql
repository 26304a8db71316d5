-- Which sequence an example became, or why none. Reads: incoming. Parameters: $tokenization_id.
INSERT INTO record.example_sequences (
    tokenization_id, example_id, branch, sequence_id, num_prompt_tokens_cut, num_response_tokens_cut, reason, detail
)
SELECT $tokenization_id, example_id::UUID, branch, sequence_id::UUID, num_prompt_tokens_cut, num_response_tokens_cut, reason, detail
FROM incoming
