-- Token ids, response positions and weight in the objective of given sequences: -1 for a rejected response, 1 for any other. The weight is
-- part of a sequence's identity, so all links to it have the same. Reads: incoming (sequence_id).
SELECT
    record.hex_id(sequences.sequence_id) AS sequence_id, sequences.token_ids, sequences.response_positions,
    CASE WHEN sequences.sequence_id IN (SELECT sequence_id FROM record.example_sequences WHERE branch = 'rejected' AND sequence_id IS NOT NULL) THEN -1 ELSE 1 END AS weight
FROM record.sequences AS sequences
SEMI JOIN incoming ON incoming.sequence_id::UUID = sequences.sequence_id
