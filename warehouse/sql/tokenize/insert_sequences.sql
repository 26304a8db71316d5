-- Sequences not yet known. Reads: incoming (distinct sequences, lists).
INSERT INTO record.sequences (sequence_id, token_ids, response_positions, end_of_turn_positions)
SELECT incoming.sequence_id::UUID, incoming.token_ids, incoming.response_positions, incoming.end_of_turn_positions
FROM incoming
WHERE incoming.sequence_id::UUID NOT IN (
    SELECT stored.sequence_id FROM record.sequences AS stored SEMI JOIN incoming ON incoming.sequence_id::UUID = stored.sequence_id
)
