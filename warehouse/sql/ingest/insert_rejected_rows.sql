-- Rows of the files that became no example. Reads: incoming (file, line, reason, raw). Parameters: $snapshot_id.
INSERT INTO record.rejected_rows (snapshot_id, file, line, reason, raw)
SELECT $snapshot_id, file, line, reason, raw
FROM incoming
