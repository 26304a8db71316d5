-- Tokens per second of the latest run that scored at least 1000 tokens. Grain: at most one row.
SELECT (counts ->> '$.score.num_tokens')::DOUBLE / (counts ->> '$.score.seconds')::DOUBLE
FROM record.runs
WHERE (counts ->> '$.score.num_tokens')::BIGINT >= 1000
ORDER BY started_at DESC
LIMIT 1
