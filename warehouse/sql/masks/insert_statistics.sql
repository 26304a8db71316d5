-- Statistics of one column over every non-NULL value of each normalisation group, those of protected tokens included; factor 0, so that
-- the column contributes 0, where all values of the group are equal.
-- The same values must give the same mask on any machine, and a parallel sum of DOUBLEs depends in its last bits on who adds what first.
-- So one pass takes of each list, from front to back, its sum and its variance by Welford's recurrence, and these are put together in the
-- order of sequence_id: Σ n (variance + (mean of the list - mean)²). Equality is tested on the values themselves; a rounded mean
-- would leave a tiny deviation to divide by.
-- Values of a direction count times the weight of their sequence, signals as they are.
-- Grain: one row per group. Parameters: $name: the column.
INSERT INTO mask_statistics
WITH lists AS (
    SELECT
        number, normalize_group, list_sum(list) * weight AS total, list_count(list)::DOUBLE AS num_values,
        list_var_pop(list) * weight * weight AS variance, list_any_value(list) * weight AS some_value
    FROM (
        SELECT
            sequences.number, sequences.normalize_group, stored.list,
            CASE WHEN $name IN ('adapt_direct', 'adapt_causal', 'stab_direct', 'stab_causal') THEN sequences.weight ELSE 1 END AS weight
        FROM mask_column($name) AS stored
        JOIN mask_sequences AS sequences ON sequences.sequence_id = stored.sequence_id
    )
),
means AS (
    SELECT
        normalize_group, sum(total ORDER BY number) / sum(num_values) AS mean, sum(num_values) AS num_values,
        max(variance) = 0 AND min(some_value) = max(some_value) AS is_constant
    FROM lists
    WHERE num_values > 0
    GROUP BY normalize_group
),
squares AS (
    SELECT
        lists.normalize_group,
        sum(lists.num_values * (lists.variance + (lists.total / lists.num_values - means.mean) * (lists.total / lists.num_values - means.mean))
            ORDER BY lists.number) AS square
    FROM lists
    JOIN means ON means.normalize_group = lists.normalize_group
    WHERE lists.num_values > 0
    GROUP BY lists.normalize_group
)
SELECT $name, means.normalize_group, means.mean, CASE WHEN means.is_constant THEN 0 ELSE 1 / sqrt(squares.square / means.num_values) END
FROM means
JOIN squares ON squares.normalize_group = means.normalize_group
