-- Values and signals of the current scoring for the current snapshot, as lists beside the response positions.
-- Grain: one row per example and branch.
CREATE OR REPLACE VIEW record.value_lists AS
SELECT
    scorings.scoring_id, current.example_id, current.sequence_id, current.branch, current.source, tokenizations.tokenizer_digest,
    current.token_ids, current.response_positions, current.end_of_turn_positions,
    adapt.direct AS adapt_direct, adapt.causal AS adapt_causal, adapt.prompt_context AS adapt_prompt_context,
    stab.direct AS stab_direct, stab.causal AS stab_causal, stab.prompt_context AS stab_prompt_context,
    signals.loss, ref_signals.loss AS ref_loss, signals.entropy, signals.margin, signals.el2n, signals.grad_norm
FROM record.current_sequences AS current
CROSS JOIN (SELECT * FROM record.scorings WHERE scoring_id = (SELECT value FROM record.pointers WHERE name = 'scoring')) AS scorings
JOIN record.tokenizations AS tokenizations ON tokenizations.tokenization_id = scorings.tokenization_id
JOIN record.direction_values AS adapt ON adapt.values_id = scorings.adapt_values_id AND adapt.sequence_id = current.sequence_id
JOIN record.direction_values AS stab ON stab.values_id = scorings.stab_values_id AND stab.sequence_id = current.sequence_id
JOIN record.signal_values AS signals ON signals.signals_id = scorings.signals_id AND signals.sequence_id = current.sequence_id
JOIN record.signal_values AS ref_signals
    ON ref_signals.signals_id = scorings.ref_signals_id AND ref_signals.sequence_id = current.sequence_id
