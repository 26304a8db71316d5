-- Mean value components and losses by source, with the share of tokens whose own loss helps adaptation: which data to take more of.
-- Grain: one row per source; NULL is the source of examples that name none.
-- $branch = all: responses of one branch: sft, chosen or rejected; all
WITH per_sequence AS (
    SELECT
        source, len(response_positions) AS num_tokens,
        list_sum(adapt_direct::DOUBLE[]) AS adapt_direct, list_count(adapt_direct) AS num_direct,
        len(list_filter(adapt_direct, lambda x: x > 0)) AS num_helpful,
        list_sum(adapt_causal::DOUBLE[]) AS adapt_causal, list_count(adapt_causal) AS num_causal,
        list_sum(stab_direct::DOUBLE[]) AS stab_direct, list_count(stab_direct) AS num_stab_direct,
        list_sum(stab_causal::DOUBLE[]) AS stab_causal, list_count(stab_causal) AS num_stab_causal,
        list_sum(loss::DOUBLE[]) AS loss, list_count(loss) AS num_loss,
        list_sum(ref_loss::DOUBLE[]) AS ref_loss, list_count(ref_loss) AS num_ref_loss
    FROM record.value_lists
    WHERE ($branch = 'all' OR branch = $branch)
)
SELECT
    source, count(*) AS num_sequences, sum(num_tokens)::BIGINT AS num_tokens,
    sum(adapt_direct) / nullif(sum(num_direct), 0) AS adapt_direct, sum(adapt_causal) / nullif(sum(num_causal), 0) AS adapt_causal,
    sum(stab_direct) / nullif(sum(num_stab_direct), 0) AS stab_direct, sum(stab_causal) / nullif(sum(num_stab_causal), 0) AS stab_causal,
    sum(loss) / nullif(sum(num_loss), 0) AS loss, sum(ref_loss) / nullif(sum(num_ref_loss), 0) AS ref_loss,
    sum(num_helpful) / nullif(sum(num_direct), 0) AS helpful_share
FROM per_sequence
GROUP BY source
ORDER BY adapt_direct DESC NULLS LAST, source
