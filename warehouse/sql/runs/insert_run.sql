-- Note the start of a run. Parameters: $run_id, $flow, $started_at, $configuration, $versions, $git_sha, $seed, $host.
INSERT INTO record.runs (run_id, flow, state, started_at, configuration, versions, git_sha, seed, host)
VALUES ($run_id, $flow, 'running', $started_at, $configuration, $versions, $git_sha, $seed, $host)
