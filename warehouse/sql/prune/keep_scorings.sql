-- Scorings that stay: the current one, those whose masks are current, the newest $keep_last, those made at $before or later; and with each
-- that of the validation set which belongs to it.
-- Grain: one row per scoring. Parameters: $keep_last, $before (NULL: age keeps nothing).
CREATE OR REPLACE TEMP TABLE kept_scorings AS
WITH told AS (
    SELECT *, settings ->> '$.held_out_of' AS held_out_of FROM record.scorings
),
kept AS (
    SELECT scoring_id
    FROM (SELECT *, row_number() OVER (ORDER BY created_at DESC, scoring_id) AS age_rank FROM told WHERE held_out_of IS NULL)
    WHERE scoring_id IN (SELECT value FROM kept_pointers WHERE name = 'scoring')
       OR scoring_id IN (
           SELECT masks.scoring_id FROM record.masks AS masks JOIN kept_pointers AS pointers ON pointers.value = masks.mask_id
       )
       OR age_rank <= $keep_last
       OR coalesce(created_at >= $before::TIMESTAMP, false)
)
SELECT * EXCLUDE (held_out_of)
FROM told
WHERE coalesce(held_out_of, scoring_id) IN (SELECT scoring_id FROM kept)
