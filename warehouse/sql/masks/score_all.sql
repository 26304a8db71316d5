-- Scores for selection of all: every response token is eligible, whether it has values or not, and none is better than another.
-- Grain: one row per sequence. No parameters.
CREATE OR REPLACE TEMP TABLE mask_scores AS
SELECT
    sequences.number, sequences.sequence_id, sequences.select_group, []::BIGINT[] AS protected_places,
    list_transform(contents.response_positions, lambda position: 0::DOUBLE) AS scores
FROM mask_sequences AS sequences
JOIN record.sequences AS contents ON contents.sequence_id = sequences.sequence_id
