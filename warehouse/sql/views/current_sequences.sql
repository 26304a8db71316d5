-- The sequences of the current snapshot under the current tokenization, with the lists that the long views unnest.
-- Grain: one row per example and branch.
CREATE OR REPLACE VIEW record.current_sequences AS
SELECT
    members.example_id, links.branch, members.source, members.multiplicity, links.sequence_id,
    sequences.token_ids, sequences.response_positions, sequences.end_of_turn_positions,
    links.num_prompt_tokens_cut, links.num_response_tokens_cut
FROM record.snapshot_examples AS members
JOIN record.example_sequences AS links ON links.example_id = members.example_id
JOIN record.sequences AS sequences ON sequences.sequence_id = links.sequence_id
WHERE members.snapshot_id = (SELECT value FROM record.pointers WHERE name = 'snapshot')
  AND links.tokenization_id = (SELECT value FROM record.pointers WHERE name = 'tokenization')
