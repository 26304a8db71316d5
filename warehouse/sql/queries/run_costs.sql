-- What runs took, and how fast they scored: the last ones that wrote something.
-- Grain: one row per run, the newest first.
-- $limit = 20: number of rows
SELECT
    run_id, flow, state, started_at, duration_s,
    (counts ->> '$.tokenize.num_tokenized')::BIGINT AS num_tokenized, (counts ->> '$.directions.num_made')::BIGINT AS num_artefacts_made,
    (counts ->> '$.score.num_sequences')::BIGINT AS num_sequences_scored, (counts ->> '$.score.num_tokens')::BIGINT AS num_tokens_scored,
    (counts ->> '$.score.seconds')::DOUBLE AS scoring_s,
    (counts ->> '$.score.num_tokens')::DOUBLE / nullif((counts ->> '$.score.seconds')::DOUBLE, 0) AS scored_tokens_per_s,
    (counts ->> '$.score.seconds')::DOUBLE / nullif(duration_s, 0) AS scoring_share
FROM runs
ORDER BY started_at DESC, run_id
LIMIT $limit::BIGINT
