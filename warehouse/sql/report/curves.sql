-- Losses of trainings, step by step. Grain: one row per training, metric and step, the newest training first.
SELECT trainings.training_id, trainings.policy, metrics.metric, metrics.step, metrics.value
FROM trainings
JOIN training_metrics AS metrics ON metrics.training_id = trainings.training_id
WHERE metrics.metric IN ('target_loss', 'retention_loss', 'train_loss')
ORDER BY trainings.created_at DESC, trainings.training_id, metrics.metric, metrics.step
