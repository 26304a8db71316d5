-- Of given examples, how many sequences and tokens lack each group of values. Grain: one row.
-- Parameters: $tokenization_id, $example_ids (a list), $adapt_values_id, $stab_values_id, $signals_id, $ref_signals_id.
WITH wanted AS (
    SELECT DISTINCT links.sequence_id, len(sequences.token_ids) AS num_tokens
    FROM record.example_sequences AS links
    JOIN record.sequences AS sequences ON sequences.sequence_id = links.sequence_id
    WHERE links.tokenization_id = $tokenization_id AND links.example_id IN (SELECT unnest($example_ids)::UUID)
),
lacking AS (
    SELECT
        num_tokens,
        sequence_id NOT IN (SELECT sequence_id FROM record.direction_values WHERE values_id = $adapt_values_id) AS adapt,
        sequence_id NOT IN (SELECT sequence_id FROM record.direction_values WHERE values_id = $stab_values_id) AS stab,
        sequence_id NOT IN (SELECT sequence_id FROM record.signal_values WHERE signals_id = $signals_id) AS signals,
        sequence_id NOT IN (SELECT sequence_id FROM record.signal_values WHERE signals_id = $ref_signals_id) AS ref_signals
    FROM wanted
)
SELECT
    count(*) FILTER (adapt) AS adapt, count(*) FILTER (stab) AS stab, count(*) FILTER (signals) AS signals,
    count(*) FILTER (ref_signals) AS ref_signals, coalesce(sum(num_tokens) FILTER (adapt OR stab OR signals OR ref_signals), 0)::BIGINT AS num_tokens
FROM lacking
