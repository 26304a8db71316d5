-- How the scoring model stands to the preferences: by source the share of pairs with a positive margin, the mean margin and weight, and how much
-- longer the chosen response is. Duplicates count once.
-- Grain: one row per source; NULL is the source of examples that name none. No row where the examples are single responses.
SELECT
    source, count(*) AS num_pairs, avg((margin > 0)::INTEGER) AS accuracy, avg(margin) AS mean_margin, avg(weight) AS mean_weight,
    avg(num_chosen_tokens::BIGINT - num_rejected_tokens::BIGINT) AS mean_extra_tokens,
    avg(policy_logprob_chosen - ref_logprob_chosen) AS mean_log_ratio_chosen, avg(policy_logprob_rejected - ref_logprob_rejected) AS mean_log_ratio_rejected
FROM pairs
GROUP BY source
ORDER BY accuracy DESC, source
