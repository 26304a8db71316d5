-- Signals of the reference model, of sequences that lack them: its loss alone, the one that policies and views read; seven columns of values
-- take 28 bytes per token, an eighth would take 4 more. Reads: incoming (a part). Parameters: $signals_id.
INSERT INTO record.signal_values (signals_id, sequence_id, loss, entropy, margin, el2n, grad_norm)
SELECT $signals_id, incoming.sequence_id::UUID, incoming.loss, NULL, NULL, NULL, NULL
FROM incoming
WHERE incoming.sequence_id::UUID NOT IN (
    SELECT stored.sequence_id
    FROM record.signal_values AS stored
    SEMI JOIN incoming ON incoming.sequence_id::UUID = stored.sequence_id
    WHERE stored.signals_id = $signals_id
)
