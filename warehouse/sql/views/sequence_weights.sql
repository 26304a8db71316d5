-- What the values of a sequence are multiplied by where it is one of a pair: ω of its example, the mean ω where several examples share it.
-- Masks decide per sequence and read this; views of values have a row per example and multiply by its own ω.
-- Grain: one row per sequence of a pair; none where the examples are single responses.
CREATE OR REPLACE VIEW record.sequence_weights AS
SELECT sequence_id, sum(weight ORDER BY example_id) / count(*) AS weight
FROM (SELECT example_id, unnest([chosen_sequence_id, rejected_sequence_id]) AS sequence_id, weight FROM record.current_pairs)
GROUP BY sequence_id
