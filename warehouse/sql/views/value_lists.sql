-- Values and signals of the current scoring for the current snapshot, as lists beside the response positions; values of pairs times ω.
-- Grain: one row per example and branch.
CREATE OR REPLACE VIEW record.value_lists AS
SELECT
    scorings.scoring_id, current.example_id, current.sequence_id, current.branch, current.source, tokenizations.tokenizer_digest,
    current.token_ids, current.response_positions, current.end_of_turn_positions,
    CASE WHEN current.branch = 'sft' THEN adapt.direct ELSE list_transform(adapt.direct, lambda x: (pairs.weight * x)::FLOAT) END AS adapt_direct,
    CASE WHEN current.branch = 'sft' THEN adapt.causal ELSE list_transform(adapt.causal, lambda x: (pairs.weight * x)::FLOAT) END AS adapt_causal,
    CASE WHEN current.branch = 'sft' THEN adapt.prompt_context ELSE pairs.weight * adapt.prompt_context END AS adapt_prompt_context,
    CASE WHEN current.branch = 'sft' THEN stab.direct ELSE list_transform(stab.direct, lambda x: (pairs.weight * x)::FLOAT) END AS stab_direct,
    CASE WHEN current.branch = 'sft' THEN stab.causal ELSE list_transform(stab.causal, lambda x: (pairs.weight * x)::FLOAT) END AS stab_causal,
    CASE WHEN current.branch = 'sft' THEN stab.prompt_context ELSE pairs.weight * stab.prompt_context END AS stab_prompt_context,
    signals.loss, ref_signals.loss AS ref_loss, signals.entropy, signals.margin, signals.el2n, signals.grad_norm
FROM record.current_sequences AS current
CROSS JOIN (SELECT * FROM record.scorings WHERE scoring_id = (SELECT value FROM record.pointers WHERE name = 'scoring')) AS scorings
JOIN record.tokenizations AS tokenizations ON tokenizations.tokenization_id = scorings.tokenization_id
JOIN record.direction_values AS adapt ON adapt.values_id = scorings.adapt_values_id AND adapt.sequence_id = current.sequence_id
JOIN record.direction_values AS stab ON stab.values_id = scorings.stab_values_id AND stab.sequence_id = current.sequence_id
JOIN record.signal_values AS signals ON signals.signals_id = scorings.signals_id AND signals.sequence_id = current.sequence_id
JOIN record.signal_values AS ref_signals
    ON ref_signals.signals_id = scorings.ref_signals_id AND ref_signals.sequence_id = current.sequence_id
LEFT JOIN record.current_pairs AS pairs ON pairs.example_id = current.example_id
