-- The training examples of the current snapshot.
-- Grain: one row per example.
CREATE OR REPLACE VIEW examples AS
SELECT
    record.hex_id(members.example_id) AS example_id, members.source, members.multiplicity, contents.content, members.extra,
    members.file, members.line, members.snapshot_id
FROM record.snapshot_examples AS members
JOIN record.examples AS contents ON contents.example_id = members.example_id
WHERE members.snapshot_id = (SELECT value FROM record.pointers WHERE name = 'snapshot')
