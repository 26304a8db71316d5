-- Settings of a stored scoring. Grain: at most one row. Parameters: $scoring_id.
SELECT settings FROM record.scorings WHERE scoring_id = $scoring_id
