-- What is current, for the identity of a release. Grain: one row per kind.
SELECT name, value FROM record.pointers ORDER BY ALL
