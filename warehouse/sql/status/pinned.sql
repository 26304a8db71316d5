-- Pinned artefacts and how the training data changed since each was made. Grain: one row per artefact.
WITH now_there AS (
    SELECT example_id FROM record.snapshot_examples WHERE snapshot_id = (SELECT value FROM record.pointers WHERE name = 'snapshot')
)
SELECT
    artifacts.kind, artifacts.created_at, artifacts.snapshot_id,
    (SELECT count(*) FROM now_there WHERE example_id NOT IN (
        SELECT example_id FROM record.snapshot_examples WHERE snapshot_id = artifacts.snapshot_id)) AS num_added,
    (SELECT count(*) FROM record.snapshot_examples AS members
        WHERE members.snapshot_id = artifacts.snapshot_id AND members.example_id NOT IN (SELECT example_id FROM now_there)) AS num_removed
FROM record.artifacts AS artifacts
ORDER BY artifacts.created_at
