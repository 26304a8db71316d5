-- Examples of a snapshot that are not tokenized yet. Grain: one row per example. Parameters: $snapshot_id, $tokenization_id.
SELECT record.hex_id(members.example_id) AS example_id, contents.content
FROM record.snapshot_examples AS members
JOIN record.examples AS contents ON contents.example_id = members.example_id
ANTI JOIN (SELECT example_id FROM record.example_sequences WHERE tokenization_id = $tokenization_id) AS done
    ON done.example_id = members.example_id
WHERE members.snapshot_id = $snapshot_id
ORDER BY members.example_id
