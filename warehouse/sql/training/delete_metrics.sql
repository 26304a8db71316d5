-- Forget the metrics of a training that is about to be written again. Parameters: $training_id.
DELETE FROM record.training_metrics WHERE training_id = $training_id
