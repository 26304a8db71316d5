-- Forget a training that is about to be written again. Parameters: $training_id.
DELETE FROM record.trainings WHERE training_id = $training_id
