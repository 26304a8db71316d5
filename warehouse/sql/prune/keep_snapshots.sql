-- Snapshots that stay: the current ones, those of current masks, the newest $keep_last of each role, those made at $before or later, the
-- validation sets of scorings that stay: all these live. What an artefact that stays was made on stays, too, but does not live: its
-- sequences and values may go, its examples stay.
-- Grain: one row per snapshot and role. Parameters: $keep_last, $before (NULL: age keeps nothing), $artifact_keys (a list: artefacts that stay).
CREATE OR REPLACE TEMP TABLE kept_snapshots AS
SELECT snapshot_id, role, coalesce(lives, false) AS is_living
FROM (
    SELECT
        snapshot_id, role,
        snapshot_id IN (
            SELECT value FROM kept_pointers AS pointers WHERE pointers.name = CASE ranked.role WHEN 'train' THEN 'snapshot' ELSE ranked.role END
        )
        OR (role = 'train' AND snapshot_id IN (
            SELECT masks.snapshot_id FROM record.masks AS masks JOIN kept_pointers AS pointers ON pointers.value = masks.mask_id
        ))
        OR (role = 'validation' AND snapshot_id IN (SELECT settings ->> '$.validation_snapshot' FROM kept_scorings))
        OR age_rank <= $keep_last
        OR coalesce(created_at >= $before::TIMESTAMP, false) AS lives,
        role = 'train' AND snapshot_id IN (
            SELECT artifacts.snapshot_id FROM record.artifacts AS artifacts WHERE list_contains($artifact_keys::VARCHAR[], artifacts.artifact_key)
        ) AS made_an_artifact
    FROM (
        SELECT *, row_number() OVER (PARTITION BY role ORDER BY created_at DESC, snapshot_id) AS age_rank FROM record.snapshots
    ) AS ranked
)
WHERE lives OR made_an_artifact
