-- How many sequences the current snapshot has, and how many of them have all their values. Grain: one row. No parameters.
SELECT
    (SELECT count(DISTINCT sequence_id) FROM record.current_sequences) AS num_sequences,
    (SELECT count(*) FROM mask_tokens) AS num_valued
