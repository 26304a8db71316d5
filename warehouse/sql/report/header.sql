-- What stands at the head of a report: the current scoring with its models, and how much it covers.
-- Grain: one row; columns of the scoring are NULL where there is none.
SELECT
    scorings.scoring_id, strftime(scorings.created_at, '%Y-%m-%d %H:%M') AS scored_at, scorings.settings ->> '$.estimator' AS estimator,
    scorings.settings ->> '$.dtype' AS dtype, scorings.settings ->> '$.reference.name' AS reference_model,
    scorings.settings ->> '$.scoring.name' AS scoring_model,
    (scorings.settings ->> '$.stab.norm')::DOUBLE = 0 AS stability_is_zero,
    (scorings.settings ->> '$.stability_alignment.scope')::DOUBLE AS stability_alignment,
    (SELECT count(DISTINCT example_id) FROM record.value_lists) AS num_examples,
    (SELECT count(*) FROM record.value_lists) AS num_sequences,
    (SELECT coalesce(sum(len(response_positions)), 0)::BIGINT FROM record.value_lists) AS num_tokens,
    (SELECT count(*) FROM examples) AS num_examples_of_snapshot,
    (SELECT count(*) FROM scorings) AS num_scorings
FROM (SELECT 1) AS one
LEFT JOIN scorings ON scorings.is_current
