-- Values and signals of every scoring, as lists beside the response positions; values of pairs times ω at that scoring and the present β.
-- Grain: one row per scoring, example and branch. `source` is that of the last snapshot that held the example.
CREATE OR REPLACE VIEW record.value_lists_all AS
SELECT
    scorings.scoring_id, links.example_id, links.sequence_id, links.branch, latest.source, tokenizations.tokenizer_digest,
    sequences.token_ids, sequences.response_positions,
    CASE WHEN links.branch = 'sft' THEN adapt.direct ELSE list_transform(adapt.direct, lambda x: (pairs.weight * x)::FLOAT) END AS adapt_direct,
    CASE WHEN links.branch = 'sft' THEN adapt.causal ELSE list_transform(adapt.causal, lambda x: (pairs.weight * x)::FLOAT) END AS adapt_causal,
    CASE WHEN links.branch = 'sft' THEN stab.direct ELSE list_transform(stab.direct, lambda x: (pairs.weight * x)::FLOAT) END AS stab_direct,
    CASE WHEN links.branch = 'sft' THEN stab.causal ELSE list_transform(stab.causal, lambda x: (pairs.weight * x)::FLOAT) END AS stab_causal,
    signals.loss, ref_signals.loss AS ref_loss, signals.entropy, signals.margin, signals.el2n, signals.grad_norm
FROM record.scorings AS scorings
JOIN record.tokenizations AS tokenizations ON tokenizations.tokenization_id = scorings.tokenization_id
JOIN record.example_sequences AS links ON links.tokenization_id = scorings.tokenization_id
JOIN record.sequences AS sequences ON sequences.sequence_id = links.sequence_id
JOIN record.direction_values AS adapt ON adapt.values_id = scorings.adapt_values_id AND adapt.sequence_id = links.sequence_id
JOIN record.direction_values AS stab ON stab.values_id = scorings.stab_values_id AND stab.sequence_id = links.sequence_id
JOIN record.signal_values AS signals ON signals.signals_id = scorings.signals_id AND signals.sequence_id = links.sequence_id
JOIN record.signal_values AS ref_signals
    ON ref_signals.signals_id = scorings.ref_signals_id AND ref_signals.sequence_id = links.sequence_id
LEFT JOIN (
    SELECT members.example_id, arg_max_null(members.source, snapshots.created_at) AS source
    FROM record.snapshot_examples AS members
    JOIN record.snapshots AS snapshots ON snapshots.snapshot_id = members.snapshot_id AND snapshots.role = 'train'
    GROUP BY members.example_id
) AS latest ON latest.example_id = links.example_id
LEFT JOIN record.pairs_all AS pairs ON pairs.scoring_id = scorings.scoring_id AND pairs.example_id = links.example_id
