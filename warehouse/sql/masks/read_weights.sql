-- What the values of a direction are multiplied by: ω where the sequence is one of a pair, 1 elsewhere. Grain: one row per sequence, in the
-- order of places.
SELECT coalesce(weights.weight, 1)::DOUBLE AS weight
FROM mask_sequences AS sequences
LEFT JOIN record.sequence_weights AS weights ON weights.sequence_id = sequences.sequence_id
ORDER BY sequences.place
