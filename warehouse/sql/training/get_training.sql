-- Checkpoint of a completed training. Grain: at most one row. Parameters: $training_id.
SELECT checkpoint FROM record.trainings WHERE training_id = $training_id AND state = 'completed'
