-- Scores for selection of all: every response token is eligible, whether it has values or not, and none is better than another.
-- Grain: one row per sequence. No parameters.
CREATE OR REPLACE TEMP TABLE mask_scores AS
SELECT number, select_group, sequence_id, positions, protected_positions, list_transform(positions, lambda position: 0) AS scores
FROM mask_tokens
