-- Rows of the current data sets (training, validation, evaluation) that became no sequence, with the reason.
-- Grain: one row per rejected row of a file (stage ingest) or per rejected example (stage tokenize), and role.
CREATE OR REPLACE VIEW rejected_rows AS
SELECT
    snapshots.role, 'ingest' AS stage, rejected.file, rejected.line, NULL AS example_id, rejected.reason, rejected.raw AS detail,
    rejected.snapshot_id
FROM snapshots
JOIN record.rejected_rows AS rejected ON rejected.snapshot_id = snapshots.snapshot_id
WHERE snapshots.is_current
UNION ALL
SELECT DISTINCT
    snapshots.role, 'tokenize', members.file, members.line, record.hex_id(members.example_id), links.reason, links.detail, members.snapshot_id
FROM snapshots
JOIN record.snapshot_examples AS members ON members.snapshot_id = snapshots.snapshot_id
JOIN record.example_sequences AS links ON links.example_id = members.example_id
WHERE snapshots.is_current
  AND links.tokenization_id = (SELECT value FROM record.pointers WHERE name = 'tokenization')
  AND links.sequence_id IS NULL
