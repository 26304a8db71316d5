-- The preference examples of the current snapshot under the current scoring, with what DPO makes of them: log-probabilities, margin and weight.
-- Grain: one row per example that has both branches; none where the examples are single responses.
CREATE OR REPLACE VIEW pairs AS
SELECT
    scoring_id, record.hex_id(example_id) AS example_id, source, multiplicity, record.hex_id(chosen_sequence_id) AS chosen_sequence_id,
    record.hex_id(rejected_sequence_id) AS rejected_sequence_id, num_chosen_tokens, num_rejected_tokens, policy_logprob_chosen,
    policy_logprob_rejected, ref_logprob_chosen, ref_logprob_rejected, beta, margin, weight
FROM record.current_pairs
