-- What trainings measured, step by step: losses, and of pairs margins. Grain: one row per training, metric and step, the newest training first.
SELECT trainings.training_id, trainings.policy, metrics.metric, metrics.step, metrics.value
FROM trainings
JOIN training_metrics AS metrics ON metrics.training_id = trainings.training_id
WHERE metrics.metric IN (
    'target_loss', 'retention_loss', 'train_loss', 'margin_accuracy', 'dpo_loss', 'margin', 'train_accuracy', 'train_margin'
)
ORDER BY trainings.created_at DESC, trainings.training_id, metrics.metric, metrics.step
