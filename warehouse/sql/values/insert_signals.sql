-- Signals of the scoring model, of sequences that lack them. Reads: incoming (a part). Parameters: $signals_id.
INSERT INTO record.signal_values (signals_id, sequence_id, loss, entropy, margin, el2n, grad_norm)
SELECT $signals_id, incoming.sequence_id::UUID, incoming.loss, incoming.entropy, incoming.margin, incoming.el2n, incoming.grad_norm
FROM incoming
WHERE incoming.sequence_id::UUID NOT IN (
    SELECT stored.sequence_id
    FROM record.signal_values AS stored
    SEMI JOIN incoming ON incoming.sequence_id::UUID = stored.sequence_id
    WHERE stored.signals_id = $signals_id
)
