-- Values against the adapt direction, of sequences that lack them. Only the ids of the part are looked up: it is small beside the table.
-- Reads: incoming (a part). Parameters: $values_id.
INSERT INTO record.direction_values (values_id, sequence_id, direct, causal, prompt_context)
SELECT $values_id, incoming.sequence_id::UUID, incoming.adapt_direct, incoming.adapt_causal, incoming.adapt_prompt_context
FROM incoming
WHERE incoming.sequence_id::UUID NOT IN (
    SELECT stored.sequence_id
    FROM record.direction_values AS stored
    SEMI JOIN incoming ON incoming.sequence_id::UUID = stored.sequence_id
    WHERE stored.values_id = $values_id
)
