-- All runs, for the identity of a release. Grain: one row per run.
SELECT run_id, state FROM record.runs ORDER BY ALL
