-- Membership of a snapshot. Reads: incoming (a frame of examples). Parameters: $snapshot_id.
INSERT INTO record.snapshot_examples (snapshot_id, example_id, multiplicity, source, extra, file, line)
SELECT $snapshot_id, example_id::UUID, multiplicity, source, extra, file, line
FROM incoming
