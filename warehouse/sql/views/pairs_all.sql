-- ω of every preference example under every scoring, at the present β; see the view `current_pairs`.
-- Grain: one row per scoring and example that has both branches.
CREATE OR REPLACE VIEW record.pairs_all AS
WITH ratios AS (
    SELECT
        scorings.scoring_id, links.example_id, links.branch,
        coalesce(list_sum(ref_signals.loss::DOUBLE[]), 0) - coalesce(list_sum(signals.loss::DOUBLE[]), 0) AS log_ratio
    FROM record.example_sequences AS links
    JOIN record.scorings AS scorings ON scorings.tokenization_id = links.tokenization_id
    JOIN record.signal_values AS signals ON signals.signals_id = scorings.signals_id AND signals.sequence_id = links.sequence_id
    JOIN record.signal_values AS ref_signals
        ON ref_signals.signals_id = scorings.ref_signals_id AND ref_signals.sequence_id = links.sequence_id
    WHERE links.branch IN ('chosen', 'rejected')
)
SELECT
    chosen.scoring_id, chosen.example_id, objective.beta / (1 + exp(objective.beta * (chosen.log_ratio - rejected.log_ratio))) AS weight
FROM ratios AS chosen
CROSS JOIN (SELECT max(value::DOUBLE) AS beta FROM record.pointers WHERE name = 'beta') AS objective
JOIN ratios AS rejected
    ON rejected.scoring_id = chosen.scoring_id AND rejected.example_id = chosen.example_id AND rejected.branch = 'rejected'
WHERE chosen.branch = 'chosen'
