-- Runs that wrote something (a run that finds nothing to do writes nothing, itself included).
-- Grain: one row per run.
CREATE OR REPLACE VIEW runs AS
SELECT
    run_id, flow, state, started_at, finished_at, epoch(finished_at - started_at) AS duration_s,
    (counts ->> '$.stage_seconds.ingest')::DOUBLE AS ingest_s, (counts ->> '$.stage_seconds.tokenize')::DOUBLE AS tokenize_s,
    (counts ->> '$.stage_seconds.directions')::DOUBLE AS directions_s, (counts ->> '$.stage_seconds.score')::DOUBLE AS score_s,
    (counts ->> '$.stage_seconds.masks')::DOUBLE AS masks_s,
    (counts ->> '$.ingest.num_examples')::BIGINT AS num_examples, (counts ->> '$.ingest.num_rejected')::BIGINT AS num_bad_rows,
    (counts ->> '$.tokenize.num_tokenized')::BIGINT AS num_tokenized, (counts ->> '$.directions.num_made')::BIGINT AS num_artefacts_made,
    (counts ->> '$.score.num_sequences')::BIGINT AS num_sequences_scored, (counts ->> '$.score.num_tokens')::BIGINT AS num_tokens_scored,
    json_array_length(counts, '$.alerts')::BIGINT AS num_alerts, counts, configuration, versions,
    git_sha, seed, host, error
FROM record.runs
