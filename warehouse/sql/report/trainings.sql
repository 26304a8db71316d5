-- Trainings, the newest first; whether each was on a mask that is still current, and what it was made with.
-- Grain: one row per training.
SELECT
    trainings.training_id, trainings.policy, strftime(trainings.created_at, '%Y-%m-%d %H:%M') AS trained_at,
    trainings.mask_id IN (SELECT mask_id FROM masks WHERE is_current) AS on_current_mask,
    (trainings.settings ->> '$.settings.learning_rate')::DOUBLE AS learning_rate, (trainings.settings ->> '$.settings.epochs')::DOUBLE AS epochs,
    trainings.settings ->> '$.settings.seed' AS seed, trainings.settings ->> '$.settings.start' AS start
FROM trainings
ORDER BY trainings.created_at DESC, trainings.training_id
