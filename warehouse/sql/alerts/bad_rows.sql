-- Rows of the current training snapshot, and those that became no sequence: set aside when read, or rejected when tokenized.
-- Grain: one row.
SELECT
    snapshots.num_rows,
    (SELECT count(*) FROM rejected_rows WHERE rejected_rows.role = 'train') AS num_bad
FROM snapshots
WHERE snapshots.role = 'train' AND snapshots.is_current
