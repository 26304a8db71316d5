-- Whether a run is noted. Parameters: $run_id.
SELECT count(*) FROM record.runs WHERE run_id = $run_id
