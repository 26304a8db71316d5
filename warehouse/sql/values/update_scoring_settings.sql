-- Write what is said of a scoring anew, its identity unchanged. Parameters: $scoring_id, $settings.
UPDATE record.scorings SET settings = $settings WHERE scoring_id = $scoring_id
