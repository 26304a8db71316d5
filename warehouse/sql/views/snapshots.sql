-- Snapshots of the data sets (role train, validation or evaluation).
-- Grain: one row per snapshot.
CREATE OR REPLACE VIEW snapshots AS
SELECT
    snapshot_id, role, kind,
    snapshot_id IN (
        SELECT value FROM record.pointers AS pointers
        WHERE pointers.name = CASE snapshots.role WHEN 'train' THEN 'snapshot' ELSE snapshots.role END
    ) AS is_current,
    num_examples, num_rows, num_rejected, run_id, created_at
FROM record.snapshots AS snapshots
