-- Values of whole examples: sums over response tokens. Σ direct = Σ causal + prompt_context, for each direction (DESIGN 3.2).
-- Grain: one row per example and branch of the current scoring and snapshot.
CREATE OR REPLACE VIEW example_values AS
SELECT
    scoring_id, record.hex_id(example_id) AS example_id, record.hex_id(sequence_id) AS sequence_id, branch, source,
    len(response_positions)::UINTEGER AS num_response_tokens,
    list_sum(adapt_direct::DOUBLE[]) AS adapt_direct, list_sum(adapt_causal::DOUBLE[]) AS adapt_causal, adapt_prompt_context,
    list_sum(stab_direct::DOUBLE[]) AS stab_direct, list_sum(stab_causal::DOUBLE[]) AS stab_causal, stab_prompt_context,
    list_avg(loss::DOUBLE[]) AS loss, list_avg(ref_loss::DOUBLE[]) AS ref_loss, list_avg(entropy::DOUBLE[]) AS entropy,
    list_avg(margin::DOUBLE[]) AS margin, list_avg(el2n::DOUBLE[]) AS el2n, list_avg(grad_norm::DOUBLE[]) AS grad_norm
FROM record.value_lists
