-- The sequences of mask_new with the rows in which their contents and values lie, without values: 200 million tokens make a million small
-- rows. Places follow the order in which adaptation values are stored, so that most reads of values are copies; number orders sequences by
-- sequence_id; NULL sources are one source. A row of values is NULL where the scoring has none.
-- Grain: one row per sequence. Parameters: the identities of the values, $adapt, $stab, $signals, $ref_signals.
CREATE OR REPLACE TEMP TABLE mask_sequences AS
WITH contents AS (
    SELECT stored.sequence_id, stored.rowid AS row FROM record.sequences AS stored SEMI JOIN mask_new ON mask_new.sequence_id = stored.sequence_id
),
directions AS (
    SELECT
        stored.sequence_id, max(CASE WHEN stored.values_id = $adapt THEN stored.rowid END) AS adapt_row,
        max(CASE WHEN stored.values_id = $stab THEN stored.rowid END) AS stab_row
    FROM record.direction_values AS stored
    SEMI JOIN mask_new ON mask_new.sequence_id = stored.sequence_id
    WHERE stored.values_id IN ($adapt, $stab)
    GROUP BY stored.sequence_id
),
signals AS (
    SELECT
        stored.sequence_id, max(CASE WHEN stored.signals_id = $signals THEN stored.rowid END) AS signals_row,
        max(CASE WHEN stored.signals_id = $ref_signals THEN stored.rowid END) AS ref_signals_row
    FROM record.signal_values AS stored
    SEMI JOIN mask_new ON mask_new.sequence_id = stored.sequence_id
    WHERE stored.signals_id IN ($signals, $ref_signals)
    GROUP BY stored.sequence_id
)
SELECT
    row_number() OVER (ORDER BY directions.adapt_row, mask_new.sequence_id) - 1 AS place, mask_new.sequence_id,
    row_number() OVER (ORDER BY mask_new.sequence_id) - 1 AS number, dense_rank() OVER (ORDER BY mask_new.source) - 1 AS source_number,
    contents.row AS content_row, directions.adapt_row, directions.stab_row, signals.signals_row, signals.ref_signals_row
FROM mask_new
JOIN contents ON contents.sequence_id = mask_new.sequence_id
LEFT JOIN directions ON directions.sequence_id = mask_new.sequence_id
LEFT JOIN signals ON signals.sequence_id = mask_new.sequence_id
ORDER BY place
