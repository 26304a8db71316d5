-- What trainings measured: target_loss on data.evaluation and retention_loss, before (step 0) and after, train_loss on the way.
-- Grain: one row per training, step and metric.
CREATE OR REPLACE VIEW training_metrics AS
SELECT metrics.training_id, trainings.policy, trainings.mask_id, metrics.step, metrics.metric, metrics.value
FROM record.training_metrics AS metrics
JOIN record.trainings AS trainings ON trainings.training_id = metrics.training_id
