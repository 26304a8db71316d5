-- The mask of mask_scores. A token is kept if it is among the highest of its scope, as many as mask_counts says, or among the $min_kept
-- highest of its response, or protected. Total order: score from high to low, then position, then sequence_id (number). NULL scores are
-- not eligible and never kept on their score. So what a sequence keeps is: scores above a threshold, and of the scores that equal it
-- those up to a place in the list (positions ascend).
-- Within a response nothing goes through long form, and few lists are sorted: the k-th highest score is guessed in linear time
-- (quantile_disc, the maximum, or the policy's own threshold), the scores above and at the guess are counted, and only a list whose counts
-- do not prove the guess is sorted. That takes 1.0 s of a core for 20 million scores, sorting all of them 1.8 s.
-- Weights are stored for soft policies alone: 1 for protected tokens, 0 for those not kept.
-- Grain: one row per sequence. Parameters: $mask_id, $scope: response, source or dataset; $keep, $threshold: the guess, NULL for none (the
-- result does not depend on it); $min_kept; $soft: whether mask_weights holds weights.
INSERT INTO record.mask_values (mask_id, sequence_id, keep, weight)
WITH responses AS (
    SELECT
        tokens.number, tokens.scores, counts.num_kept AS num_kept_of_scope,
        greatest(
            CASE WHEN $scope = 'response' THEN least(counts.num_kept, list_count(tokens.scores)) ELSE 0 END,
            least($min_kept::BIGINT, list_count(tokens.scores))
        ) AS num_kept
    FROM mask_scores AS tokens
    JOIN mask_counts AS counts ON counts.select_group = tokens.select_group
),
guessed AS (
    SELECT
        number, scores, num_kept,
        CASE
            WHEN num_kept = 1 THEN list_max(scores)
            WHEN $threshold::DOUBLE IS NOT NULL
                THEN $threshold::DOUBLE * 65537 - ($threshold::DOUBLE * 65537 - $threshold::DOUBLE)
            WHEN $keep::DOUBLE IS NOT NULL THEN list_aggregate(scores, 'quantile_disc', -coalesce($keep::DOUBLE, 0.5))
        END AS guess
    FROM responses
    WHERE num_kept > 0
),
counted AS (
    SELECT
        number, scores, num_kept, guess,
        len(list_filter(scores, lambda s: s > guess)) AS num_above, len(list_filter(scores, lambda s: s >= guess)) AS num_from
    FROM guessed
),
proved AS (
    SELECT
        number, scores, num_kept, guess, num_above, num_from, coalesce(num_above <= num_kept AND num_kept <= num_from, false) AS is_proved,
        CASE WHEN NOT is_proved THEN list_sort(scores, 'DESC', 'NULLS LAST') END AS descending
    FROM counted
),
response_thresholds AS (
    SELECT
        number, scores, num_kept, CASE WHEN is_proved THEN guess ELSE descending[num_kept] END AS threshold,
        num_kept - CASE WHEN is_proved THEN num_above ELSE list_position(descending, threshold) - 1 END AS num_ties,
        CASE WHEN is_proved THEN num_from > num_kept ELSE descending[num_kept + 1] = threshold END AS has_more_ties
    FROM proved
),
response_limits AS (
    SELECT
        number, threshold,
        CASE
            WHEN NOT coalesce(has_more_ties, false) THEN len(scores)
            WHEN num_ties = 0 THEN 0
            ELSE list_filter(range(1, len(scores) + 1), lambda i: scores[i] = threshold)[num_ties]
        END AS last_place
    FROM response_thresholds
),
long AS (
    SELECT select_group, unnest(scores) AS score FROM mask_scores WHERE $scope <> 'response'
),
group_thresholds AS (
    SELECT places.select_group, places.score AS threshold, counts.num_kept
    FROM (
        SELECT select_group, score, row_number() OVER (PARTITION BY select_group ORDER BY score DESC) AS place FROM long WHERE score IS NOT NULL
    ) AS places
    JOIN mask_counts AS counts ON counts.select_group = places.select_group AND counts.num_kept = places.place
),
group_above AS (
    SELECT tokens.select_group, sum(len(list_filter(tokens.scores, lambda s: s > groups.threshold)))::BIGINT AS num_above
    FROM mask_scores AS tokens
    JOIN group_thresholds AS groups ON groups.select_group = tokens.select_group
    GROUP BY tokens.select_group
),
group_ties AS (
    SELECT select_group, number, position, row_number() OVER (PARTITION BY select_group ORDER BY position, number) AS place
    FROM (
        SELECT
            tokens.select_group, tokens.number,
            unnest(list_filter(contents.response_positions, lambda position, i: tokens.scores[i] = groups.threshold)) AS position
        FROM mask_scores AS tokens
        JOIN group_thresholds AS groups ON groups.select_group = tokens.select_group
        JOIN record.sequences AS contents ON contents.sequence_id = tokens.sequence_id
        WHERE list_contains(tokens.scores, groups.threshold)
    )
),
group_limits AS (
    SELECT groups.select_group, groups.threshold, ties.position AS last_position, ties.number AS last_number
    FROM group_thresholds AS groups
    JOIN group_above AS above ON above.select_group = groups.select_group
    JOIN group_ties AS ties ON ties.select_group = groups.select_group AND ties.place = groups.num_kept - above.num_above
),
wide_limits AS (
    SELECT
        tokens.number, groups.threshold,
        len(list_filter(contents.response_positions, lambda position:
            position < groups.last_position OR (position = groups.last_position AND tokens.number <= groups.last_number))) AS last_place
    FROM mask_scores AS tokens
    JOIN group_limits AS groups ON groups.select_group = tokens.select_group
    JOIN record.sequences AS contents ON contents.sequence_id = tokens.sequence_id
),
limits AS ( -- what either rule keeps is a beginning of the response's own order, so the longer of the two holds both
    SELECT
        tokens.number, tokens.sequence_id, tokens.scores, tokens.protected_places,
        coalesce(least(own.threshold, wide.threshold), 'infinity'::DOUBLE) AS threshold,
        greatest(
            CASE WHEN own.threshold = least(own.threshold, wide.threshold) THEN own.last_place END,
            CASE WHEN wide.threshold = least(own.threshold, wide.threshold) THEN wide.last_place END
        ) AS last_place
    FROM mask_scores AS tokens
    LEFT JOIN response_limits AS own ON own.number = tokens.number
    LEFT JOIN wide_limits AS wide ON wide.number = tokens.number
),
kept AS (
    SELECT
        number, sequence_id, protected_places,
        CASE
            WHEN last_place = len(scores)
                THEN list_transform(scores, lambda s, i: coalesce(s >= threshold, list_contains(protected_places, i)))
            ELSE list_transform(scores, lambda s, i:
                coalesce(s > threshold OR (s = threshold AND i <= last_place), list_contains(protected_places, i)))
        END AS keep
    FROM limits
)
SELECT
    $mask_id, kept.sequence_id, kept.keep,
    CASE WHEN $soft THEN
        list_transform(kept.keep, lambda keep, i: CASE WHEN keep THEN coalesce(weights.list[i], 1) ELSE 0 END)::FLOAT[]
    END
FROM kept
LEFT JOIN mask_weights AS weights ON weights.number = kept.number
ORDER BY kept.number
