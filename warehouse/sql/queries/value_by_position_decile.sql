-- Mean value components and losses by tenth of the response: 1 is its beginning, 10 its end. Causal values add up what later losses draw
-- from a token, and so tend to fall towards the end.
-- Grain: one row per tenth that has tokens.
-- $branch = all: responses of one branch: sft, chosen or rejected; all
WITH long AS (
    SELECT
        len(response_positions) AS num_tokens, unnest(range(len(response_positions))) AS place,
        unnest(adapt_direct) AS adapt_direct, unnest(adapt_causal) AS adapt_causal,
        unnest(stab_direct) AS stab_direct, unnest(stab_causal) AS stab_causal,
        unnest(loss) AS loss, unnest(ref_loss) AS ref_loss, unnest(entropy) AS entropy
    FROM record.value_lists
    WHERE ($branch = 'all' OR branch = $branch)
)
SELECT
    10 * place // num_tokens + 1 AS decile, count(*) AS num_tokens,
    avg(adapt_direct) AS adapt_direct, avg(adapt_causal) AS adapt_causal, avg(stab_direct) AS stab_direct, avg(stab_causal) AS stab_causal,
    avg(loss) AS loss, avg(ref_loss) AS ref_loss, avg(entropy) AS entropy
FROM long
GROUP BY decile
ORDER BY decile
