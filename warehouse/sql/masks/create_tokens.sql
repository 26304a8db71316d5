-- What one mask is computed from: the distinct sequences of the current snapshot with the stored columns that carry weight.
-- An unweighted column is not read: it is NULL here. Source is the smallest of the examples that share the sequence.
-- Numbers are ordinals, so that 20 million long rows need no strings: number orders sequences by sequence_id, a group of NULL
-- sources is one group. The lists stay as they are stored: on 2 cores, selecting among 5 million tokens takes 0.7 s on lists and 1.6 s in
-- long form (sorted, then put back into lists).
-- Grain: one row per sequence. Parameters: $normalize_over, $scope: response, source or dataset; $protect: whether end-of-turn tokens
-- are protected; $adapt_direct, $adapt_causal, $stab_direct, $stab_causal, $loss, $ref_loss, $entropy: weights.
CREATE OR REPLACE TEMP TABLE mask_tokens AS
WITH named AS (
    SELECT sequence_id, min(source) AS source FROM record.current_sequences GROUP BY sequence_id
),
numbered AS MATERIALIZED (
    SELECT
        sequence_id, row_number() OVER (ORDER BY sequence_id)::UINTEGER AS number,
        dense_rank() OVER (ORDER BY source)::UINTEGER AS source_number
    FROM named
)
SELECT
    numbered.number, numbered.sequence_id,
    CASE $normalize_over WHEN 'response' THEN numbered.number WHEN 'source' THEN numbered.source_number ELSE 0 END AS normalize_group,
    CASE $scope WHEN 'response' THEN numbered.number WHEN 'source' THEN numbered.source_number ELSE 0 END AS select_group,
    sequences.response_positions AS positions,
    CASE WHEN $protect THEN sequences.end_of_turn_positions ELSE [] END AS protected_positions,
    CASE WHEN $adapt_direct <> 0 THEN adapt.direct END AS adapt_direct,
    CASE WHEN $adapt_causal <> 0 THEN adapt.causal END AS adapt_causal,
    CASE WHEN $stab_direct <> 0 THEN stab.direct END AS stab_direct,
    CASE WHEN $stab_causal <> 0 THEN stab.causal END AS stab_causal,
    CASE WHEN $loss <> 0 THEN signals.loss END AS loss,
    CASE WHEN $ref_loss <> 0 THEN ref_signals.loss END AS ref_loss,
    CASE WHEN $entropy <> 0 THEN signals.entropy END AS entropy
FROM numbered
CROSS JOIN (SELECT * FROM record.scorings WHERE scoring_id = (SELECT value FROM record.pointers WHERE name = 'scoring')) AS scorings
JOIN record.sequences AS sequences ON sequences.sequence_id = numbered.sequence_id
JOIN record.direction_values AS adapt ON adapt.values_id = scorings.adapt_values_id AND adapt.sequence_id = numbered.sequence_id
JOIN record.direction_values AS stab ON stab.values_id = scorings.stab_values_id AND stab.sequence_id = numbered.sequence_id
JOIN record.signal_values AS signals ON signals.signals_id = scorings.signals_id AND signals.sequence_id = numbered.sequence_id
JOIN record.signal_values AS ref_signals
    ON ref_signals.signals_id = scorings.ref_signals_id AND ref_signals.sequence_id = numbered.sequence_id
