-- Scores for selection at random: 64 bits of the MD5 of "seed:sequence_id:position", so that a token's score depends on nothing else and
-- appended sequences do not reshuffle others. NULL, not eligible, where the token has no loss (adapt_direct is NULL) or is protected.
-- The shift takes a quarter of the time of md5_number_lower, which gives the same bits.
-- Grain: one row per sequence. Parameters: $seed.
CREATE OR REPLACE TEMP TABLE mask_scores AS
SELECT
    number, select_group, sequence_id, positions, protected_positions,
    list_transform(positions, lambda position, i: CASE
        WHEN adapt_direct[i] IS NOT NULL AND NOT list_contains(protected_positions, position)
        THEN (md5_number(concat_ws(':', $seed, sequence_id, position)) >> 64)::UBIGINT
    END) AS scores
FROM mask_tokens
