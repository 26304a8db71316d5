-- Scores for selection at random: 53 bits of the MD5 of "seed:sequence_id:position", so that a token's score depends on nothing else and
-- appended sequences do not reshuffle others. NULL, not eligible, where the token has no loss (adapt_direct is NULL) or is protected.
-- The shift takes a quarter of the time of md5_number_upper.
-- Grain: one row per sequence. Parameters: $seed; $protect: whether end-of-turn tokens are protected.
CREATE OR REPLACE TEMP TABLE mask_scores AS
SELECT
    sequences.number, sequences.sequence_id, sequences.select_group,
    CASE WHEN $protect THEN list_filter(
        list_transform(contents.end_of_turn_positions, lambda p: list_position(contents.response_positions, p)::BIGINT), lambda i: i > 0
    ) ELSE [] END AS protected_places,
    list_transform(contents.response_positions, lambda position, i: CASE
        WHEN stored.list[i] IS NOT NULL AND NOT list_contains(protected_places, i)
        THEN (md5_number(concat_ws(':', $seed, sequences.sequence_id, position)) >> 75)::DOUBLE
    END) AS scores
FROM mask_sequences AS sequences
JOIN record.sequences AS contents ON contents.sequence_id = sequences.sequence_id
JOIN mask_column('adapt_direct') AS stored ON stored.sequence_id = sequences.sequence_id
