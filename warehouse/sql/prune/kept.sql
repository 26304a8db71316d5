-- What stays, and why. Grain: one row per scoring and snapshot that stays.
SELECT
    'scoring' AS kind, scoring_id AS id, created_at,
    CASE
        WHEN scoring_id = (SELECT value FROM kept_pointers WHERE name = 'scoring') THEN 'current'
        WHEN scoring_id IN (SELECT masks.scoring_id FROM record.masks AS masks JOIN kept_pointers AS pointers ON pointers.value = masks.mask_id)
            THEN 'mask of policy ' || (
                SELECT string_agg(pointers.name[6:], ', ' ORDER BY pointers.name)
                FROM record.masks AS masks JOIN kept_pointers AS pointers ON pointers.value = masks.mask_id
                WHERE masks.scoring_id = kept_scorings.scoring_id
            )
        ELSE 'newest, or younger than asked for'
    END AS why
FROM kept_scorings
UNION ALL
SELECT
    snapshots.role || ' snapshot', snapshots.snapshot_id, stored.created_at,
    CASE
        WHEN stored.is_current THEN 'current'
        WHEN NOT snapshots.is_living THEN 'artefacts were made on it: the examples stay, no values'
        ELSE 'newest, younger than asked for, or used by what stays'
    END
FROM kept_snapshots AS snapshots
JOIN snapshots AS stored ON stored.snapshot_id = snapshots.snapshot_id AND stored.role = snapshots.role
ORDER BY kind, created_at DESC, id
