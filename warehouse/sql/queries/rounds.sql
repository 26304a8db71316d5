-- Trainings as rounds: each with the mask, scoring and run behind it, and the training whose model it was valued at and began with.
-- A training that began with no other's model is round 1.
-- Grain: one row per training, lines of descent one after the other, with what it measured before and after.
WITH RECURSIVE measured AS (
    SELECT
        training_id, max(step) AS steps,
        max(value) FILTER (metric = 'target_loss' AND step > 0) AS target_loss, max(value) FILTER (metric = 'retention_loss' AND step > 0) AS retention_loss
    FROM training_metrics
    GROUP BY training_id
),
begun AS (
    SELECT
        trainings.training_id, trainings.policy, trainings.mask_id, trainings.checkpoint, trainings.run_id, trainings.created_at,
        earlier.training_id AS began_with
    FROM trainings
    LEFT JOIN runs ON runs.run_id = trainings.run_id
    LEFT JOIN trainings AS earlier
        ON earlier.checkpoint = runs.configuration ->> '$.model.scoring' AND runs.configuration ->> '$.training.start' = 'scoring'
),
chained AS (
    SELECT training_id AS first_training_id, 1 AS round, * FROM begun WHERE began_with IS NULL
    UNION ALL
    SELECT chained.first_training_id, chained.round + 1, begun.* FROM begun JOIN chained ON chained.training_id = begun.began_with
)
SELECT
    chained.first_training_id, chained.round, chained.training_id, chained.began_with, chained.policy, chained.mask_id, masks.scoring_id,
    chained.run_id AS training_run_id, scorings.run_id AS scoring_run_id, scorings.settings ->> '$.scoring.digest' AS scoring_digest,
    masks.kept_share, measured.steps, measured.target_loss, measured.retention_loss, chained.checkpoint
FROM chained
LEFT JOIN (SELECT DISTINCT mask_id, scoring_id, kept_share FROM masks) AS masks ON masks.mask_id = chained.mask_id
LEFT JOIN scorings ON scorings.scoring_id = masks.scoring_id
LEFT JOIN measured ON measured.training_id = chained.training_id
ORDER BY chained.first_training_id, chained.round, chained.created_at
