-- Ranks of one column in its normalisation groups: the average rank of equal values, scaled to [0, 1] by (rank - 1) / (n - 1), where n
-- counts the group's non-NULL values; 0.5 where n = 1, as where all n values are equal. NULL stays NULL. One column at a time: the sort
-- needs long rows, and those of four columns together do not fit in the memory limit. Values of a direction count times the weight of
-- their sequence.
-- Grain: one row per sequence. Parameters: $name: the column.
INSERT INTO mask_ranks
WITH stored AS (
    SELECT
        sequences.number, sequences.normalize_group, lists.list,
        CASE WHEN $name IN ('adapt_direct', 'adapt_causal', 'stab_direct', 'stab_causal') THEN sequences.weight ELSE 1 END AS weight
    FROM mask_column($name) AS lists
    JOIN mask_sequences AS sequences ON sequences.sequence_id = lists.sequence_id
),
sizes AS (
    SELECT normalize_group, sum(list_count(list)) AS num_values FROM stored GROUP BY normalize_group
),
long AS (
    SELECT number, normalize_group, unnest(list) * weight AS value, unnest(range(len(list))) AS place FROM stored
),
ranks AS ( -- among peers, the first has rank() and the last the running count; their sum is twice the average rank, an exact integer
    SELECT number, normalize_group, place, CASE WHEN value IS NULL THEN 0 ELSE rank() OVER peers + count(value) OVER peers END AS twice
    FROM long
    WINDOW peers AS (PARTITION BY normalize_group ORDER BY value NULLS LAST)
),
packed AS ( -- place above 34 bits of rank: a list of integers is put in order much faster than by an ORDER BY in the aggregate
    SELECT number, normalize_group, list_sort(list(place * 17179869184 + twice)) AS list FROM ranks GROUP BY number, normalize_group
)
SELECT
    $name, packed.number,
    list_transform(packed.list, lambda x: CASE
        WHEN x & 17179869183 = 0 THEN NULL
        WHEN sizes.num_values = 1 THEN 0.5::DOUBLE
        ELSE ((x & 17179869183)::DOUBLE / 2 - 1) / (sizes.num_values - 1)::DOUBLE
    END)
FROM packed
JOIN sizes ON sizes.normalize_group = packed.normalize_group
