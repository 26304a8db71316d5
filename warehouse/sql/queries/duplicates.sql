-- Examples that the data hold several times. They are valued once and counted as often as they occur in training.
-- Grain: one row per example, the most frequent first.
-- $min_multiplicity = 2: how often it must occur
-- $limit = 100: number of rows
SELECT example_id, source, multiplicity, multiplicity / sum(multiplicity) OVER () AS share_of_rows, file, line, content
FROM examples
QUALIFY multiplicity >= $min_multiplicity::BIGINT
ORDER BY multiplicity DESC, example_id
LIMIT $limit::BIGINT
