-- Trainings: on which mask and release, with which settings, and where the checkpoint lies.
-- Grain: one row per training.
CREATE OR REPLACE VIEW trainings AS
SELECT training_id, policy, mask_id, release_id, state, checkpoint, settings, run_id, created_at
FROM record.trainings
