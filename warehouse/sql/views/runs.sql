-- Runs that wrote something (a run that finds nothing to do writes nothing, itself included).
-- Grain: one row per run.
CREATE OR REPLACE VIEW runs AS
SELECT
    run_id, flow, state, started_at, finished_at, epoch(finished_at - started_at) AS duration_s, counts, configuration, versions,
    git_sha, seed, host, error
FROM record.runs
