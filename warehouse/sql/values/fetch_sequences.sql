-- Token ids and response positions of given sequences. Reads: incoming (sequence_id).
SELECT sequences.sequence_id, sequences.token_ids, sequences.response_positions
FROM record.sequences AS sequences
SEMI JOIN incoming ON incoming.sequence_id = sequences.sequence_id
