-- Contents of examples not yet known. Reads: incoming (example_id, content).
INSERT INTO record.examples (example_id, content)
SELECT incoming.example_id::UUID, incoming.content
FROM incoming
ANTI JOIN record.examples AS known ON known.example_id = incoming.example_id::UUID
