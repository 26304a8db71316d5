-- Sequences not yet known. Reads: incoming (sequence_id NULL for a rejected example, lists).
INSERT INTO record.sequences (sequence_id, token_ids, response_positions, end_of_turn_positions)
SELECT
    incoming.sequence_id, any_value(incoming.token_ids), any_value(incoming.response_positions), any_value(incoming.end_of_turn_positions)
FROM incoming
ANTI JOIN record.sequences AS known ON known.sequence_id = incoming.sequence_id
WHERE incoming.sequence_id IS NOT NULL
GROUP BY incoming.sequence_id
ORDER BY incoming.sequence_id
