-- The distinct sequences of a current snapshot that have no rows yet, without values: 200 million tokens make a million small
-- rows. Places follow the order in which adaptation values are stored, so that most reads of values are copies; number orders sequences by
-- sequence_id; NULL sources are one source. Source is the smallest of the examples that share the sequence.
-- Grain: one row per sequence. Parameters: $snapshot, $scoring: names of the pointers to the snapshot and to its scoring; $known_rows_id: rows that may be there already, NULL for none; $branch: chosen or rejected,
-- NULL for all.
CREATE OR REPLACE TEMP TABLE mask_sequences AS
WITH named AS (
    SELECT links.sequence_id, min(members.source) AS source
    FROM record.snapshot_examples AS members
    JOIN record.example_sequences AS links ON links.example_id = members.example_id
    WHERE members.snapshot_id = (SELECT value FROM record.pointers WHERE name = $snapshot)
      AND links.tokenization_id = (SELECT value FROM record.pointers WHERE name = 'tokenization')
      AND links.branch = coalesce($branch, links.branch)
      AND links.sequence_id NOT IN (SELECT sequence_id FROM record.mask_values WHERE mask_id = $known_rows_id)
    GROUP BY links.sequence_id
),
lengths AS (
    SELECT sequence_id, len(response_positions)::BIGINT AS num_tokens FROM record.sequences
),
stored AS (
    SELECT direction_values.sequence_id, direction_values.rowid AS place
    FROM record.direction_values
    JOIN record.scorings ON scorings.adapt_values_id = direction_values.values_id
    WHERE scorings.scoring_id = (SELECT value FROM record.pointers WHERE pointers.name = $scoring)
)
SELECT
    row_number() OVER (ORDER BY stored.place, named.sequence_id) - 1 AS place, named.sequence_id,
    row_number() OVER (ORDER BY named.sequence_id) - 1 AS number, dense_rank() OVER (ORDER BY named.source) - 1 AS source_number,
    lengths.num_tokens
FROM named
JOIN lengths ON lengths.sequence_id = named.sequence_id
LEFT JOIN stored ON stored.sequence_id = named.sequence_id
ORDER BY place
