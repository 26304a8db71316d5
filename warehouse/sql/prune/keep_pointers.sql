-- Pointers that count: all but those of policies that are not configured and whose masks are of another scoring or snapshot than the
-- current ones.
-- Grain: one row per pointer. Parameters: $policies (a list of names).
CREATE OR REPLACE TEMP TABLE kept_pointers AS
SELECT pointers.name, pointers.value
FROM record.pointers AS pointers
LEFT JOIN record.masks AS masks ON masks.mask_id = pointers.value AND pointers.name LIKE 'mask:%'
WHERE pointers.name NOT LIKE 'mask:%'
   OR list_contains($policies::VARCHAR[], pointers.name[6:])
   OR (
       masks.scoring_id = (SELECT value FROM record.pointers WHERE name = 'scoring')
       AND masks.snapshot_id = (SELECT value FROM record.pointers WHERE name = 'snapshot')
   )
