-- Rows of the current snapshot's files that became no sequence, with the reason.
-- Grain: one row per rejected row of a file (stage ingest) or per rejected example (stage tokenize).
CREATE OR REPLACE VIEW rejected_rows AS
SELECT 'ingest' AS stage, file, line, NULL AS example_id, reason, raw AS detail, snapshot_id
FROM record.rejected_rows
WHERE snapshot_id = (SELECT value FROM record.pointers WHERE name = 'snapshot')
UNION ALL
SELECT 'tokenize', members.file, members.line, members.example_id, links.reason, links.detail, members.snapshot_id
FROM record.snapshot_examples AS members
JOIN record.example_sequences AS links ON links.example_id = members.example_id
WHERE members.snapshot_id = (SELECT value FROM record.pointers WHERE name = 'snapshot')
  AND links.tokenization_id = (SELECT value FROM record.pointers WHERE name = 'tokenization')
  AND links.sequence_id IS NULL
