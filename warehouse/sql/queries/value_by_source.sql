-- Mean value components and losses by source, with the share of tokens whose own loss helps adaptation: which data to take more of.
-- Lists are added up before they are joined: a join of lists copies them all.
-- Grain: one row per source; NULL is the source of examples that name none.
-- $branch = all: responses of one branch: sft, chosen or rejected; all
WITH current AS (
    SELECT links.example_id, links.branch, links.sequence_id, members.source, coalesce(pairs.weight, 1) AS weight -- ω of a pair
    FROM record.snapshot_examples AS members
    JOIN record.example_sequences AS links ON links.example_id = members.example_id
    LEFT JOIN record.current_pairs AS pairs ON pairs.example_id = links.example_id
    WHERE members.snapshot_id = (SELECT value FROM record.pointers WHERE name = 'snapshot')
      AND links.tokenization_id = (SELECT value FROM record.pointers WHERE name = 'tokenization')
      AND links.sequence_id IS NOT NULL
      AND ($branch = 'all' OR links.branch = $branch)
),
scoring AS (
    SELECT * FROM record.scorings WHERE scoring_id = (SELECT value FROM record.pointers WHERE name = 'scoring')
),
adapt AS (
    SELECT
        sequence_id, len(direct) AS num_tokens, list_sum(direct) AS direct, record.num_values(direct) AS num_direct,
        list_sum(causal) AS causal, record.num_values(causal) AS num_causal, len(list_filter(direct, lambda x: x > 0)) AS num_helpful
    FROM record.direction_values
    WHERE values_id = (SELECT adapt_values_id FROM scoring)
),
stab AS (
    SELECT
        sequence_id, list_sum(direct) AS direct, record.num_values(direct) AS num_direct, list_sum(causal) AS causal,
        record.num_values(causal) AS num_causal
    FROM record.direction_values
    WHERE values_id = (SELECT stab_values_id FROM scoring)
),
signals AS (
    SELECT sequence_id, list_sum(loss) AS loss, record.num_values(loss) AS num_loss
    FROM record.signal_values
    WHERE signals_id = (SELECT signals_id FROM scoring)
),
ref_signals AS (
    SELECT sequence_id, list_sum(loss) AS loss, record.num_values(loss) AS num_loss
    FROM record.signal_values
    WHERE signals_id = (SELECT ref_signals_id FROM scoring)
)
SELECT
    current.source, count(*) AS num_sequences, sum(adapt.num_tokens)::BIGINT AS num_tokens,
    sum(current.weight * adapt.direct) / nullif(sum(adapt.num_direct), 0) AS adapt_direct,
    sum(current.weight * adapt.causal) / nullif(sum(adapt.num_causal), 0) AS adapt_causal,
    sum(current.weight * stab.direct) / nullif(sum(stab.num_direct), 0) AS stab_direct,
    sum(current.weight * stab.causal) / nullif(sum(stab.num_causal), 0) AS stab_causal,
    sum(signals.loss) / nullif(sum(signals.num_loss), 0) AS loss, sum(ref_signals.loss) / nullif(sum(ref_signals.num_loss), 0) AS ref_loss,
    sum(adapt.num_helpful) / nullif(sum(adapt.num_direct), 0) AS helpful_share
FROM current
JOIN adapt ON adapt.sequence_id = current.sequence_id
JOIN stab ON stab.sequence_id = current.sequence_id
JOIN signals ON signals.sequence_id = current.sequence_id
JOIN ref_signals ON ref_signals.sequence_id = current.sequence_id
GROUP BY current.source
ORDER BY adapt_direct DESC NULLS LAST, current.source
