-- A completed training. Parameters: $training_id, $policy, $mask_id, $release_id, $settings, $checkpoint, $run_id.
INSERT INTO record.trainings (training_id, policy, mask_id, release_id, settings, checkpoint, state, run_id, created_at)
VALUES ($training_id, $policy, $mask_id, $release_id, $settings, $checkpoint, 'completed', $run_id, make_timestamp(epoch_us(now())))
