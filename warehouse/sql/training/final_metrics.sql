-- What a training measured: before it and at its end. Grain: one row per metric. Parameters: $training_id.
SELECT CASE WHEN step = 0 THEN metric || '_before' ELSE metric END AS metric, value
FROM record.training_metrics
WHERE training_id = $training_id AND (metric = 'train_seconds' OR NOT starts_with(metric, 'train_'))
