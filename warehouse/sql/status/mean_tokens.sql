-- Mean length of the stored sequences, in tokens. Grain: one row.
SELECT coalesce(avg(len(token_ids)), 0) FROM record.sequences
