-- Scores for selection by value: the weighted sum of the columns in mask_tokens, standardised over their normalisation group if asked.
-- NULL where a weighted column is NULL or the token is protected: not eligible. Mean and population deviation are over every non-NULL
-- value of the group, those of protected tokens included; a column that is constant in its group contributes 0.
-- The same values must give the same mask on any machine. A parallel sum of DOUBLEs depends in its last bits on who adds what first, so
-- each list is added up from front to back and the lists in the order of their sequence_id. Sums that are equal on paper (the ranks
-- 0.2 + 0.4 and 0 + 0.6) still differ in the last of 53 bits: the score is rounded to 37 bits, s * 65537 - (s * 65537 - s), which keeps
-- apart whatever 24-bit values keep apart.
-- Grain: one row per sequence. Parameters: $standardize: whether to; $adapt_direct, $adapt_causal, $stab_direct, $stab_causal, $loss,
-- $ref_loss, $entropy: weights, at most 1 in size.
CREATE OR REPLACE TEMP TABLE mask_scores AS
WITH stored AS (
    SELECT 'adapt_direct' AS name, number, normalize_group, adapt_direct AS list FROM mask_tokens WHERE $standardize AND $adapt_direct <> 0
    UNION ALL SELECT 'adapt_causal', number, normalize_group, adapt_causal FROM mask_tokens WHERE $standardize AND $adapt_causal <> 0
    UNION ALL SELECT 'stab_direct', number, normalize_group, stab_direct FROM mask_tokens WHERE $standardize AND $stab_direct <> 0
    UNION ALL SELECT 'stab_causal', number, normalize_group, stab_causal FROM mask_tokens WHERE $standardize AND $stab_causal <> 0
    UNION ALL SELECT 'loss', number, normalize_group, loss FROM mask_tokens WHERE $standardize AND $loss <> 0
    UNION ALL SELECT 'ref_loss', number, normalize_group, ref_loss FROM mask_tokens WHERE $standardize AND $ref_loss <> 0
    UNION ALL SELECT 'entropy', number, normalize_group, entropy FROM mask_tokens WHERE $standardize AND $entropy <> 0
),
totals AS (
    SELECT
        name, number, normalize_group, list_sum(list) AS total, list_count(list) AS num_values,
        list_min(list) AS smallest, list_max(list) AS largest
    FROM stored
),
means AS (
    SELECT
        name, normalize_group, sum(total ORDER BY number) / sum(num_values) AS mean, sum(num_values) AS num_values,
        min(smallest) = max(largest) AS is_constant -- exactly; a rounded mean would leave a tiny deviation to divide by
    FROM totals
    GROUP BY name, normalize_group
),
squares AS (
    SELECT
        stored.name, stored.number, stored.normalize_group, means.mean, means.num_values, means.is_constant,
        list_sum(list_transform(stored.list, lambda x: (x - means.mean) * (x - means.mean))) AS square
    FROM stored
    JOIN means ON means.name = stored.name AND means.normalize_group = stored.normalize_group
),
statistics AS (
    SELECT
        name, normalize_group, min(mean) AS mean,
        CASE WHEN min(is_constant) THEN 0 ELSE 1 / sqrt(sum(square ORDER BY number) / min(num_values)) END AS factor
    FROM squares
    GROUP BY name, normalize_group
),
by_group AS (
    SELECT
        normalize_group, map_from_entries(list((name, mean))) AS mean, map_from_entries(list((name, factor))) AS factor
    FROM statistics
    GROUP BY normalize_group
),
scaled AS ( -- without standardisation there are no statistics: mean 0, factor 1
    SELECT
        tokens.*,
        coalesce(by_group.mean['adapt_direct'], 0) AS adapt_direct_mean, coalesce(by_group.factor['adapt_direct'], 1) AS adapt_direct_factor,
        coalesce(by_group.mean['adapt_causal'], 0) AS adapt_causal_mean, coalesce(by_group.factor['adapt_causal'], 1) AS adapt_causal_factor,
        coalesce(by_group.mean['stab_direct'], 0) AS stab_direct_mean, coalesce(by_group.factor['stab_direct'], 1) AS stab_direct_factor,
        coalesce(by_group.mean['stab_causal'], 0) AS stab_causal_mean, coalesce(by_group.factor['stab_causal'], 1) AS stab_causal_factor,
        coalesce(by_group.mean['loss'], 0) AS loss_mean, coalesce(by_group.factor['loss'], 1) AS loss_factor,
        coalesce(by_group.mean['ref_loss'], 0) AS ref_loss_mean, coalesce(by_group.factor['ref_loss'], 1) AS ref_loss_factor,
        coalesce(by_group.mean['entropy'], 0) AS entropy_mean, coalesce(by_group.factor['entropy'], 1) AS entropy_factor
    FROM mask_tokens AS tokens
    LEFT JOIN by_group ON by_group.normalize_group = tokens.normalize_group
),
summed AS (
    SELECT
        number, select_group, sequence_id, positions, protected_positions,
        list_transform(positions, lambda position, i: CASE WHEN NOT list_contains(protected_positions, position) THEN
            CASE WHEN $adapt_direct = 0 THEN 0 ELSE $adapt_direct * ((adapt_direct[i] - adapt_direct_mean) * adapt_direct_factor) END
            + CASE WHEN $adapt_causal = 0 THEN 0 ELSE $adapt_causal * ((adapt_causal[i] - adapt_causal_mean) * adapt_causal_factor) END
            + CASE WHEN $stab_direct = 0 THEN 0 ELSE $stab_direct * ((stab_direct[i] - stab_direct_mean) * stab_direct_factor) END
            + CASE WHEN $stab_causal = 0 THEN 0 ELSE $stab_causal * ((stab_causal[i] - stab_causal_mean) * stab_causal_factor) END
            + CASE WHEN $loss = 0 THEN 0 ELSE $loss * ((loss[i] - loss_mean) * loss_factor) END
            + CASE WHEN $ref_loss = 0 THEN 0 ELSE $ref_loss * ((ref_loss[i] - ref_loss_mean) * ref_loss_factor) END
            + CASE WHEN $entropy = 0 THEN 0 ELSE $entropy * ((entropy[i] - entropy_mean) * entropy_factor) END
        END) AS scores
    FROM scaled
)
SELECT
    number, select_group, sequence_id, positions, protected_positions,
    list_transform(scores, lambda s: s * 65537 - (s * 65537 - s)) AS scores
FROM summed
