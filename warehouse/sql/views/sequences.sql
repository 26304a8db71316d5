-- The tokenized sequences of the current snapshot.
-- Grain: one row per example and branch.
CREATE OR REPLACE VIEW sequences AS
SELECT
    record.hex_id(example_id) AS example_id, record.hex_id(sequence_id) AS sequence_id, branch, source, multiplicity,
    token_ids, response_positions, end_of_turn_positions,
    len(token_ids)::UINTEGER AS num_tokens, len(response_positions)::UINTEGER AS num_response_tokens,
    num_prompt_tokens_cut, num_response_tokens_cut
FROM record.current_sequences
