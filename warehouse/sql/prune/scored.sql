-- Sequences left under each identity of values or signals. Grain: one row per identity.
SELECT values_id, list(record.hex_id(sequence_id) ORDER BY sequence_id) AS sequence_ids
FROM (
    SELECT values_id, sequence_id FROM record.direction_values
    UNION ALL
    SELECT signals_id, sequence_id FROM record.signal_values
)
GROUP BY values_id
ORDER BY values_id
