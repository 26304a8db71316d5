-- What mask_sequences holds, in the order of places. Grain: one row per sequence.
SELECT number, source_number, num_tokens FROM mask_sequences ORDER BY place
