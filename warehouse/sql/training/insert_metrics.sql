-- Metrics of a training. Reads: incoming (step, metric, value). Parameters: $training_id.
INSERT INTO record.training_metrics (training_id, step, metric, value)
SELECT $training_id, step, metric, value
FROM incoming
