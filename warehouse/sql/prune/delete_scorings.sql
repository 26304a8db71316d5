-- Scorings that go.
DELETE FROM record.scorings
WHERE scoring_id NOT IN (SELECT scoring_id FROM kept_scorings)
