-- Rows of the current training snapshot, and those that became no sequence: set aside when read, or of examples rejected when tokenized.
-- Grain: one row.
SELECT
    snapshots.num_rows,
    snapshots.num_rejected + (
        SELECT coalesce(sum(members.multiplicity), 0)::BIGINT
        FROM record.snapshot_examples AS members
        SEMI JOIN record.example_sequences AS links
            ON links.example_id = members.example_id
            AND links.sequence_id IS NULL
            AND links.tokenization_id = (SELECT value FROM record.pointers WHERE name = 'tokenization')
        WHERE members.snapshot_id = snapshots.snapshot_id
    ) AS num_bad
FROM snapshots
WHERE snapshots.role = 'train' AND snapshots.is_current
