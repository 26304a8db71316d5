-- The distinct sequences of the current snapshot that have no rows yet, without values: 200 million tokens make a million small
-- rows. Places follow the order in which adaptation values are stored, so that most reads of values are copies; number orders sequences by
-- sequence_id; NULL sources are one source. Source is the smallest of the examples that share the sequence.
-- Grain: one row per sequence. Parameters: $known_rows_id: rows that may be there already, NULL for none.
CREATE OR REPLACE TEMP TABLE mask_sequences AS
WITH named AS (
    SELECT sequence_id, min(source) AS source, any_value(len(response_positions))::BIGINT AS num_tokens
    FROM record.current_sequences
    GROUP BY sequence_id
),
stored AS (
    SELECT direction_values.sequence_id, direction_values.rowid AS place
    FROM record.direction_values
    JOIN record.scorings ON scorings.adapt_values_id = direction_values.values_id
    WHERE scorings.scoring_id = (SELECT value FROM record.pointers WHERE pointers.name = 'scoring')
)
SELECT
    row_number() OVER (ORDER BY stored.place, named.sequence_id) - 1 AS place, named.sequence_id,
    row_number() OVER (ORDER BY named.sequence_id) - 1 AS number, dense_rank() OVER (ORDER BY named.source) - 1 AS source_number, num_tokens
FROM named
LEFT JOIN stored ON stored.sequence_id = named.sequence_id
ANTI JOIN (SELECT sequence_id FROM record.mask_values WHERE mask_id = $known_rows_id) AS known ON known.sequence_id = named.sequence_id
ORDER BY ALL
