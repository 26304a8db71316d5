-- Settings of all scorings and whether each stays: what they name decides on the artefacts. Grain: one row per scoring.
SELECT scorings.settings, kept.scoring_id IS NOT NULL AS is_kept
FROM record.scorings AS scorings
LEFT JOIN kept_scorings AS kept ON kept.scoring_id = scorings.scoring_id
