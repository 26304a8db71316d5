-- What the current training examples are: sft or preference. Grain: one row; none before there is a snapshot.
SELECT kind
FROM record.snapshots
WHERE role = 'train'
  AND snapshot_id = (SELECT value FROM record.pointers WHERE name = 'snapshot')
