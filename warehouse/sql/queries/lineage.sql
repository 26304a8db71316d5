-- From a token to everything behind it: the mask that keeps it or not, the scoring with its models, directions and validation set, and
-- the run with configuration and code that made the scoring. Sequences added since were valued by later runs, from the same models and
-- directions.
-- Grain: one row per current policy, branch and response position of an example.
-- $example_id: the example, whole
SELECT
    tokens.example_id, tokens.branch, tokens.position, tokens.token, masks.policy, marks.keep,
    masks.settings AS policy_settings, masks.mask_id, masks.snapshot_id, masks.run_id AS mask_run_id,
    scorings.scoring_id, scorings.settings ->> '$.estimator' AS estimator, scorings.settings ->> '$.dtype' AS dtype,
    scorings.settings ->> '$.reference.name' AS reference_model, scorings.settings ->> '$.reference.digest' AS reference_digest,
    scorings.settings ->> '$.scoring.name' AS scoring_model, scorings.settings ->> '$.scoring.digest' AS scoring_digest,
    scorings.settings ->> '$.adapt.digest' AS adapt_digest, scorings.settings ->> '$.stab.digest' AS stab_digest,
    scorings.settings ->> '$.validation_snapshot' AS validation_snapshot_id, validation.num_examples AS num_validation_examples,
    scorings.settings ->> '$.made_on_snapshot' AS made_on_snapshot_id, scorings.settings AS scoring_settings,
    runs.run_id AS scoring_run_id, runs.flow AS scoring_flow, runs.started_at AS scoring_started_at, runs.configuration AS scoring_configuration,
    scorings.settings ->> '$.code_versions' AS code_versions, runs.git_sha, runs.versions ->> '$.alphatoken' AS alphatoken_version, runs.versions
FROM token_values AS tokens
JOIN token_masks AS marks
    ON marks.example_id = tokens.example_id AND marks.branch = tokens.branch AND marks.position = tokens.position
JOIN masks ON masks.mask_id = marks.mask_id AND masks.policy = marks.policy
JOIN scorings ON scorings.scoring_id = tokens.scoring_id
LEFT JOIN snapshots AS validation
    ON validation.snapshot_id = scorings.settings ->> '$.validation_snapshot' AND validation.role = 'validation'
LEFT JOIN runs ON runs.run_id = scorings.run_id
WHERE tokens.example_id = $example_id
ORDER BY tokens.branch, tokens.position, masks.policy
