-- Masks of the current scoring and snapshot, one per policy.
-- A hard mask stores no weights: they are 1 where a token is kept and 0 elsewhere.
-- Grain: one row per policy, example, branch and response position. Policies with equal settings share a mask.
CREATE OR REPLACE VIEW token_masks AS
SELECT
    masks.mask_id, pointers.name[6:] AS policy, record.hex_id(current.example_id) AS example_id,
    record.hex_id(current.sequence_id) AS sequence_id, current.branch,
    unnest(current.response_positions) AS position, unnest(kept.keep) AS keep, unnest(coalesce(kept.weight, kept.keep::FLOAT[])) AS weight
FROM record.pointers AS pointers
JOIN record.masks AS masks ON masks.mask_id = pointers.value
JOIN record.mask_rows AS kept ON kept.mask_id = masks.mask_id
JOIN record.current_sequences AS current ON current.sequence_id = kept.sequence_id
WHERE pointers.name LIKE 'mask:%'
  AND masks.scoring_id = (SELECT value FROM record.pointers WHERE name = 'scoring')
  AND masks.snapshot_id = (SELECT value FROM record.pointers WHERE name = 'snapshot')
