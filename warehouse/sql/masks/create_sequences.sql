-- The distinct sequences of the current snapshot, with the groups that a policy normalises over and selects in. No values: 200 million
-- tokens make a million small rows. Numbers are ordinals: number orders sequences by sequence_id, and a group of NULL sources is one
-- group. Source is the smallest of the examples that share the sequence.
-- Weight is what the stored values are multiplied by: ω where the sequence is one of a pair, 1 elsewhere.
-- Grain: one row per sequence. Parameters: $normalize_over, $scope: response, source or dataset; $branch: chosen or rejected, NULL for all.
CREATE OR REPLACE TEMP TABLE mask_sequences AS
WITH named AS (
    SELECT sequence_id, min(source) AS source
    FROM record.current_sequences
    WHERE branch = coalesce($branch, branch)
    GROUP BY sequence_id
),
numbered AS MATERIALIZED (
    SELECT
        sequence_id, row_number() OVER (ORDER BY sequence_id)::UINTEGER AS number,
        dense_rank() OVER (ORDER BY source)::UINTEGER AS source_number
    FROM named
)
SELECT
    number, sequence_id,
    CASE $normalize_over WHEN 'response' THEN number WHEN 'source' THEN source_number ELSE 0 END AS normalize_group,
    CASE $scope WHEN 'response' THEN number WHEN 'source' THEN source_number ELSE 0 END AS select_group,
    coalesce(weights.weight, 1) AS weight
FROM numbered
LEFT JOIN record.sequence_weights AS weights USING (sequence_id)
ORDER BY number
