-- A sample of the valued examples, with tokens and values as lists. Which ones follows from their ids alone: a larger sample holds a smaller
-- one, and an appended row moves no other.
-- Grain: one row per example and branch, the branches of an example side by side. Parameters: $num_examples.
WITH sampled AS (
    SELECT example_id FROM (SELECT DISTINCT example_id FROM record.value_lists) ORDER BY md5(record.hex_id(example_id)) LIMIT $num_examples::BIGINT
)
SELECT
    record.hex_id(values_.example_id) AS example_id, values_.branch, values_.source, record.hex_id(values_.sequence_id) AS sequence_id,
    members.multiplicity, members.file, members.line,
    values_.token_ids, values_.response_positions, values_.adapt_direct, values_.adapt_causal, values_.stab_direct, values_.stab_causal,
    values_.loss, values_.ref_loss, values_.entropy, values_.margin, values_.el2n, values_.grad_norm
FROM record.value_lists AS values_
JOIN sampled ON sampled.example_id = values_.example_id
JOIN record.snapshot_examples AS members
    ON members.example_id = values_.example_id AND members.snapshot_id = (SELECT value FROM record.pointers WHERE name = 'snapshot')
ORDER BY md5(record.hex_id(values_.example_id)), values_.branch
