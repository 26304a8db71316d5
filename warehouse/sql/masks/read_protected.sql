-- Which response tokens are end-of-turn tokens: their places in the response, from 1. Grain: one row per such token; no order.
-- Parameters: $first_row: none of the sequences lies before it.
SELECT place, token
FROM (
    SELECT
        sequences.place,
        unnest(list_transform(contents.end_of_turn_positions, lambda p: list_position(contents.response_positions, p)))::BIGINT AS token
    FROM record.sequences AS contents
    JOIN mask_sequences AS sequences ON sequences.content_row = contents.rowid
    WHERE contents.rowid >= $first_row
)
WHERE token > 0
