-- Receipts of snapshots and masks that go.
DELETE FROM record.receipts
WHERE (stage = 'ingest' AND identity NOT IN (SELECT snapshot_id FROM kept_snapshots))
   OR (stage = 'mask' AND identity NOT IN (SELECT mask_id FROM kept_masks))
