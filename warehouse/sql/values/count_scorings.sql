-- Whether a scoring is stored. Parameters: $scoring_id.
SELECT count(*) FROM record.scorings WHERE scoring_id = $scoring_id
