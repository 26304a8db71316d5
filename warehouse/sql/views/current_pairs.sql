-- The preference examples of the current snapshot under the current scoring, with what DPO makes of them (DESIGN 3.5): log-probabilities of both
-- responses are sums over all response tokens with a loss, whatever a mask keeps; margin s = β ((log π⁺ − log ref⁺) − (log π⁻ − log ref⁻));
-- weight ω = β σ(−s), by which the views of values multiply. β is the pointer `beta`: the setting of the last run; no stored value depends on it.
-- Grain: one row per example that has both branches; none where the examples are single responses.
CREATE OR REPLACE VIEW record.current_pairs AS
WITH sums AS (
    SELECT
        scorings.scoring_id, current.example_id, current.source, current.multiplicity, current.branch, current.sequence_id,
        len(current.response_positions)::UINTEGER AS num_tokens,
        -coalesce(list_sum(signals.loss::DOUBLE[]), 0) AS policy_logprob, -coalesce(list_sum(ref_signals.loss::DOUBLE[]), 0) AS ref_logprob
    FROM record.current_sequences AS current
    CROSS JOIN (SELECT * FROM record.scorings WHERE scoring_id = (SELECT value FROM record.pointers WHERE name = 'scoring')) AS scorings
    JOIN record.signal_values AS signals ON signals.signals_id = scorings.signals_id AND signals.sequence_id = current.sequence_id
    JOIN record.signal_values AS ref_signals
        ON ref_signals.signals_id = scorings.ref_signals_id AND ref_signals.sequence_id = current.sequence_id
    WHERE current.branch IN ('chosen', 'rejected')
),
margins AS (
    SELECT
        chosen.scoring_id, chosen.example_id, chosen.source, chosen.multiplicity,
        chosen.sequence_id AS chosen_sequence_id, rejected.sequence_id AS rejected_sequence_id,
        chosen.num_tokens AS num_chosen_tokens, rejected.num_tokens AS num_rejected_tokens,
        chosen.policy_logprob AS policy_logprob_chosen, rejected.policy_logprob AS policy_logprob_rejected,
        chosen.ref_logprob AS ref_logprob_chosen, rejected.ref_logprob AS ref_logprob_rejected,
        (SELECT value::DOUBLE FROM record.pointers WHERE name = 'beta') AS beta
    FROM sums AS chosen
    JOIN sums AS rejected ON rejected.example_id = chosen.example_id AND rejected.branch = 'rejected'
    WHERE chosen.branch = 'chosen'
)
SELECT
    *, beta * ((policy_logprob_chosen - ref_logprob_chosen) - (policy_logprob_rejected - ref_logprob_rejected)) AS margin,
    beta / (1 + exp(margin)) AS weight
FROM margins
