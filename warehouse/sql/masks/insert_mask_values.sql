-- The mask of mask_scores. A token is kept if it is among the ceil($keep * eligible) highest of its scope, or among the $min_kept
-- highest of its response, or protected. Total order: score from high to low, then position, then sequence_id (number). NULL scores are
-- not eligible and never kept on their score.
-- Within a response nothing goes through long form: the k-th highest score is the threshold, and where the next one equals it, the
-- position of the last tie still kept is looked up (NULL: all ties are kept). Wider scopes do the same with one sort of scores alone.
-- ceil: 0.07 * 100 is 7.000000000000001 in binary; a relative 1e-12 is taken off first, far above that noise and far below one token.
-- Grain: one row per sequence. Parameters: $mask_id, $scope: response, source or dataset; $keep, $min_kept.
INSERT INTO record.mask_values (mask_id, sequence_id, keep)
WITH responses AS (
    SELECT
        number, positions, scores, list_sort(scores, 'DESC', 'NULLS LAST') AS sorted, list_count(scores)::BIGINT AS num_eligible,
        greatest(
            CASE WHEN $scope = 'response' THEN ceil($keep::DOUBLE * num_eligible * (1 - 1e-12::DOUBLE))::BIGINT ELSE 0 END,
            least($min_kept::BIGINT, num_eligible)
        ) AS num_kept
    FROM mask_scores
),
response_thresholds AS (
    SELECT
        number, sorted[num_kept] AS threshold,
        CASE WHEN sorted[num_kept + 1] = threshold THEN
            list_sort(list_filter(positions, lambda position, i: scores[i] = threshold))[num_kept - list_position(sorted, threshold) + 1]
        END AS last_position
    FROM responses
    WHERE num_kept > 0
),
long AS (
    SELECT select_group, number, unnest(scores) AS score, unnest(positions) AS position FROM mask_scores WHERE $scope <> 'response'
),
group_sizes AS (
    SELECT select_group, ceil($keep::DOUBLE * count(score) * (1 - 1e-12::DOUBLE))::BIGINT AS num_kept FROM long GROUP BY select_group
),
group_thresholds AS (
    SELECT long.select_group, long.score AS threshold
    FROM (
        SELECT select_group, score, row_number() OVER (PARTITION BY select_group ORDER BY score DESC) AS place
        FROM long WHERE score IS NOT NULL
    ) AS long
    JOIN group_sizes ON group_sizes.select_group = long.select_group AND group_sizes.num_kept = long.place
),
group_above AS (
    SELECT long.select_group, count(*) FILTER (WHERE long.score > group_thresholds.threshold) AS num_above
    FROM long
    JOIN group_thresholds ON group_thresholds.select_group = long.select_group
    GROUP BY long.select_group
),
group_ties AS (
    SELECT
        long.select_group, long.position, long.number,
        row_number() OVER (PARTITION BY long.select_group ORDER BY long.position, long.number) AS place
    FROM long
    JOIN group_thresholds ON group_thresholds.select_group = long.select_group AND group_thresholds.threshold = long.score
),
group_limits AS (
    SELECT group_thresholds.select_group, group_thresholds.threshold, group_ties.position AS last_position, group_ties.number AS last_number
    FROM group_thresholds
    JOIN group_sizes ON group_sizes.select_group = group_thresholds.select_group
    JOIN group_above ON group_above.select_group = group_thresholds.select_group
    JOIN group_ties
        ON group_ties.select_group = group_thresholds.select_group AND group_ties.place = group_sizes.num_kept - group_above.num_above
)
SELECT
    $mask_id, tokens.sequence_id,
    list_transform(tokens.positions, lambda position, i:
        coalesce(tokens.scores[i] > own.threshold, false)
        OR coalesce(tokens.scores[i] = own.threshold AND (own.last_position IS NULL OR position <= own.last_position), false)
        OR coalesce(tokens.scores[i] > wide.threshold, false)
        OR coalesce(
            tokens.scores[i] = wide.threshold
            AND (position < wide.last_position OR (position = wide.last_position AND tokens.number <= wide.last_number)),
            false
        )
        OR list_contains(tokens.protected_positions, position)
    ) AS keep
FROM mask_scores AS tokens
LEFT JOIN response_thresholds AS own ON own.number = tokens.number
LEFT JOIN group_limits AS wide ON wide.select_group = tokens.select_group
ORDER BY tokens.number
