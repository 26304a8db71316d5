-- What became of an example under the current tokenization. Grain: one row per branch; a rejected example has a reason and no sequence.
-- Parameters: $example_id.
SELECT
    links.branch, record.hex_id(links.sequence_id) AS sequence_id, links.tokenization_id, len(sequences.token_ids) AS num_tokens,
    len(sequences.response_positions) AS num_response_tokens, links.num_prompt_tokens_cut, links.num_response_tokens_cut,
    links.reason, links.detail, tokenizations.tokenizer_digest, tokenizations.settings, tokenizations.run_id
FROM record.example_sequences AS links
LEFT JOIN record.sequences AS sequences ON sequences.sequence_id = links.sequence_id
LEFT JOIN record.tokenizations AS tokenizations ON tokenizations.tokenization_id = links.tokenization_id
WHERE links.example_id = $example_id::UUID AND links.tokenization_id = (SELECT value FROM record.pointers WHERE name = 'tokenization')
ORDER BY links.branch
