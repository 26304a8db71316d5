-- Rows that were set aside, counted. Grain: one row per stage and reason.
SELECT stage, reason, count(*) AS rows
FROM rejected_rows
GROUP BY ALL
ORDER BY rows DESC, stage, reason
