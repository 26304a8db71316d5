-- Sequences of a snapshot and which of the four groups of values each still lacks. Grain: one row per sequence that lacks any.
-- Parameters: $snapshot_id, $tokenization_id, $adapt_values_id, $stab_values_id, $signals_id, $ref_signals_id.
WITH wanted AS (
    SELECT DISTINCT links.sequence_id
    FROM record.snapshot_examples AS members
    JOIN record.example_sequences AS links ON links.example_id = members.example_id AND links.tokenization_id = $tokenization_id
    WHERE members.snapshot_id = $snapshot_id AND links.sequence_id IS NOT NULL
),
lacking AS (
    SELECT
        sequence_id,
        sequence_id NOT IN (SELECT sequence_id FROM record.direction_values WHERE values_id = $adapt_values_id) AS adapt,
        sequence_id NOT IN (SELECT sequence_id FROM record.direction_values WHERE values_id = $stab_values_id) AS stab,
        sequence_id NOT IN (SELECT sequence_id FROM record.signal_values WHERE signals_id = $signals_id) AS signals,
        sequence_id NOT IN (SELECT sequence_id FROM record.signal_values WHERE signals_id = $ref_signals_id) AS ref_signals
    FROM wanted
)
SELECT record.hex_id(lacking.sequence_id) AS sequence_id, len(sequences.token_ids)::BIGINT AS num_tokens, adapt, stab, signals, ref_signals
FROM lacking
JOIN record.sequences AS sequences ON sequences.sequence_id = lacking.sequence_id
WHERE adapt OR stab OR signals OR ref_signals
ORDER BY lacking.sequence_id
