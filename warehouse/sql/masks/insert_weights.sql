-- Weights of a soft policy: the share of the eligible tokens of the scope whose score is not above the token's own. The best token has 1,
-- equal scores have equal weights, NULL where the token is not eligible.
-- Within a response the place of a score in the sorted list tells; looking every token up would cost the square of the length, so that
-- is done only where scores are equal. Wider scopes need one sort of long rows.
-- Grain: one row per sequence. Parameters: $scope: response, source or dataset.
INSERT INTO mask_weights
WITH responses AS (
    SELECT
        number, scores, list_count(scores) AS num_eligible, list_grade_up(scores, 'ASC', 'NULLS LAST') AS places,
        list_sort(scores, 'DESC', 'NULLS LAST') AS descending, list_unique(scores) = list_count(scores) AS is_distinct
    FROM mask_scores
    WHERE $scope = 'response'
),
long AS (
    SELECT number, select_group, unnest(scores) AS score, unnest(range(len(scores))) AS place FROM mask_scores WHERE $scope <> 'response'
),
counted AS (
    SELECT number, select_group, place, CASE WHEN score IS NULL THEN 0 ELSE count(score) OVER not_above END AS num_not_above
    FROM long
    WINDOW not_above AS (PARTITION BY select_group ORDER BY score NULLS LAST)
),
packed AS ( -- place above 34 bits of count, as in insert_ranks
    SELECT number, select_group, list_sort(list(place * 17179869184 + num_not_above)) AS list FROM counted GROUP BY number, select_group
),
sizes AS (
    SELECT select_group, count(score) AS num_eligible FROM long GROUP BY select_group
)
SELECT
    number,
    CASE
        WHEN is_distinct THEN list_transform(list_grade_up(places), lambda place, i:
            CASE WHEN scores[i] IS NOT NULL THEN (place::DOUBLE / num_eligible)::FLOAT END)
        ELSE list_transform(scores, lambda s:
            CASE WHEN s IS NOT NULL THEN ((num_eligible - list_position(descending, s) + 1)::DOUBLE / num_eligible)::FLOAT END)
    END
FROM responses
UNION ALL
SELECT
    packed.number,
    list_transform(packed.list, lambda x: CASE WHEN x & 17179869183 > 0 THEN ((x & 17179869183)::DOUBLE / sizes.num_eligible)::FLOAT END)
FROM packed
JOIN sizes ON sizes.select_group = packed.select_group
