-- A key per sequence for random selection: 64 bits of the MD5 of "seed:sequence_id". Grain: one row per sequence, in the order of places.
-- Parameters: $seed.
SELECT (md5_number(concat_ws(':', $seed, record.hex_id(sequence_id))) >> 64)::UBIGINT AS key FROM mask_sequences ORDER BY place
