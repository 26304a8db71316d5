-- Note the end of a run. Parameters: $run_id, $state, $finished_at, $counts, $error.
UPDATE record.runs SET state = $state, finished_at = $finished_at, counts = $counts, error = $error WHERE run_id = $run_id
