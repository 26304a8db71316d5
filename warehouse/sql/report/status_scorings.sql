-- The newest scorings, as `status` shows them. Grain: one row per scoring, at most 5.
SELECT
    scoring_id[:8] AS scoring, is_current AS now, settings ->> '$.scoring.name' AS model, settings ->> '$.estimator' AS estimator,
    (settings ->> '$.stability_alignment.scope')::DOUBLE AS alignment, strftime(created_at, '%m-%d %H:%M') AS "made (UTC)"
FROM scorings
ORDER BY created_at DESC, scoring_id
LIMIT 5
