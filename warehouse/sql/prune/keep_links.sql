-- Tokenized examples that stay: under a tokenization that stays, in a snapshot that lives.
-- Grain: one row per tokenization, example and branch.
CREATE OR REPLACE TEMP TABLE kept_links AS
SELECT links.tokenization_id, links.example_id, links.branch, links.sequence_id
FROM record.example_sequences AS links
SEMI JOIN kept_tokenizations ON kept_tokenizations.tokenization_id = links.tokenization_id
SEMI JOIN (
    SELECT members.example_id
    FROM record.snapshot_examples AS members
    SEMI JOIN (SELECT snapshot_id FROM kept_snapshots WHERE is_living) AS living ON living.snapshot_id = members.snapshot_id
) AS examples ON examples.example_id = links.example_id
