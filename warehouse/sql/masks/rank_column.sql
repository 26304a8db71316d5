-- Replace one column's values in mask_tokens by their ranks in the normalisation group: the average rank of equal values, scaled to
-- [0, 1] by (rank - 1) / (n - 1), where n counts the group's non-NULL values; 0.5 where n = 1, as where all n values are equal. NULL
-- stays NULL. One column at a time: the sort needs long rows, and those of four columns together do not fit in the memory limit.
-- Grain: one row per sequence. Parameters: $name: the column.
CREATE OR REPLACE TEMP TABLE mask_tokens AS
WITH stored AS (
    SELECT
        number, normalize_group,
        CASE $name
            WHEN 'adapt_direct' THEN adapt_direct WHEN 'adapt_causal' THEN adapt_causal WHEN 'stab_direct' THEN stab_direct
            WHEN 'stab_causal' THEN stab_causal WHEN 'loss' THEN loss WHEN 'ref_loss' THEN ref_loss WHEN 'entropy' THEN entropy
        END AS list
    FROM mask_tokens
),
sizes AS (
    SELECT normalize_group, sum(list_count(list)) AS num_values FROM stored GROUP BY normalize_group
),
long AS (
    SELECT number, normalize_group, unnest(list) AS value, unnest(range(len(list))) AS place FROM stored
),
ranks AS ( -- among peers, the first has rank() and the last the running count; their sum is twice the average rank, an exact integer
    SELECT number, normalize_group, place, CASE WHEN value IS NULL THEN 0 ELSE rank() OVER peers + count(value) OVER peers END AS twice
    FROM long
    WINDOW peers AS (PARTITION BY normalize_group ORDER BY value NULLS LAST)
),
packed AS ( -- place above 34 bits of rank: a list of integers is put in order much faster than by an ORDER BY in the aggregate
    SELECT number, normalize_group, list_sort(list(place * 17179869184 + twice)) AS list FROM ranks GROUP BY number, normalize_group
),
scaled AS (
    SELECT
        packed.number,
        list_transform(packed.list, lambda x: CASE
            WHEN x & 17179869183 = 0 THEN NULL
            WHEN sizes.num_values = 1 THEN 0.5::DOUBLE
            ELSE ((x & 17179869183)::DOUBLE / 2 - 1) / (sizes.num_values - 1)::DOUBLE
        END) AS list
    FROM packed
    JOIN sizes ON sizes.normalize_group = packed.normalize_group
)
SELECT
    tokens.number, tokens.sequence_id, tokens.normalize_group, tokens.select_group, tokens.positions, tokens.protected_positions,
    CASE $name WHEN 'adapt_direct' THEN scaled.list ELSE tokens.adapt_direct END AS adapt_direct,
    CASE $name WHEN 'adapt_causal' THEN scaled.list ELSE tokens.adapt_causal END AS adapt_causal,
    CASE $name WHEN 'stab_direct' THEN scaled.list ELSE tokens.stab_direct END AS stab_direct,
    CASE $name WHEN 'stab_causal' THEN scaled.list ELSE tokens.stab_causal END AS stab_causal,
    CASE $name WHEN 'loss' THEN scaled.list ELSE tokens.loss END AS loss,
    CASE $name WHEN 'ref_loss' THEN scaled.list ELSE tokens.ref_loss END AS ref_loss,
    CASE $name WHEN 'entropy' THEN scaled.list ELSE tokens.entropy END AS entropy
FROM mask_tokens AS tokens
LEFT JOIN scaled ON scaled.number = tokens.number
