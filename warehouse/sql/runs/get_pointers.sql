-- What is current. Grain: one row per kind of thing.
SELECT name, value FROM record.pointers ORDER BY ALL
