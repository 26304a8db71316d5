-- Values against the adapt direction, of sequences that lack them. Reads: incoming (a part). Parameters: $values_id.
INSERT INTO record.direction_values (values_id, sequence_id, direct, causal, prompt_context)
SELECT $values_id, incoming.sequence_id, incoming.adapt_direct, incoming.adapt_causal, incoming.adapt_prompt_context
FROM incoming
ANTI JOIN (SELECT sequence_id FROM record.direction_values WHERE values_id = $values_id) AS known
    ON known.sequence_id = incoming.sequence_id
