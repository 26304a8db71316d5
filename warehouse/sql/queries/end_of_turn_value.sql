-- What end-of-turn tokens are worth beside all other response tokens: is stopping learnt, and would a policy keep it unprotected?
-- Grain: one row for end-of-turn tokens, one for the others.
-- $branch = all: responses of one branch: sft, chosen or rejected; all
WITH long AS (
    SELECT
        unnest(list_transform(response_positions, lambda p: list_contains(end_of_turn_positions, p))) AS is_end_of_turn,
        unnest(adapt_direct) AS adapt_direct, unnest(adapt_causal) AS adapt_causal,
        unnest(stab_direct) AS stab_direct, unnest(stab_causal) AS stab_causal,
        unnest(loss) AS loss, unnest(ref_loss) AS ref_loss, unnest(entropy) AS entropy
    FROM record.value_lists
    WHERE ($branch = 'all' OR branch = $branch)
)
SELECT
    is_end_of_turn, count(*) AS num_tokens, avg((adapt_direct > 0)::INTEGER) AS helpful_share,
    avg(adapt_direct) AS adapt_direct, avg(adapt_causal) AS adapt_causal, avg(stab_direct) AS stab_direct, avg(stab_causal) AS stab_causal,
    avg(loss) AS loss, avg(ref_loss) AS ref_loss, avg(entropy) AS entropy
FROM long
GROUP BY is_end_of_turn
ORDER BY is_end_of_turn DESC
