-- The distinct sequences of the current snapshot that have no rows yet. Rows are looked up first: when 1% of the examples are new, all the
-- rest is about that 1%. Source is the smallest of the examples that share the sequence.
-- Grain: one row per sequence. Parameters: $snapshot_id, $tokenization_id; $known_rows_id: rows that may be there already, NULL for none;
-- $branch: chosen or rejected, NULL for all.
CREATE OR REPLACE TEMP TABLE mask_new AS
WITH new_links AS MATERIALIZED (
    SELECT links.example_id, links.sequence_id
    FROM record.example_sequences AS links
    ANTI JOIN (SELECT sequence_id FROM record.mask_values WHERE mask_id = $known_rows_id) AS known ON known.sequence_id = links.sequence_id
    WHERE links.tokenization_id = $tokenization_id
      AND links.sequence_id IS NOT NULL
      AND links.branch = coalesce($branch, links.branch)
)
SELECT new_links.sequence_id, min(members.source) AS source
FROM new_links
JOIN record.snapshot_examples AS members ON members.example_id = new_links.example_id
WHERE members.snapshot_id = $snapshot_id
GROUP BY new_links.sequence_id
