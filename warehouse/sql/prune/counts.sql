-- Rows that go, and the size of their content before compression (4 bytes per number, 1 bit per flag, texts as they are).
-- Grain: one row per table. Parameters: $artifact_keys (a list: artefacts that stay), $paths (a list: beginnings of paths that go).
SELECT 'scorings' AS kind, count(*) AS num_rows, coalesce(sum(strlen(settings)), 0)::BIGINT AS num_bytes
FROM record.scorings WHERE scoring_id NOT IN (SELECT scoring_id FROM kept_scorings)
UNION ALL
SELECT 'values', count(*), coalesce(sum(4 * (len(direct) + len(causal))), 0)::BIGINT
FROM record.direction_values
WHERE values_id IN (SELECT values_id FROM pruned_values)
   OR (
       sequence_id NOT IN (SELECT sequence_id FROM kept_links WHERE sequence_id IS NOT NULL)
       AND values_id NOT IN (SELECT values_id FROM unfinished_values)
   )
UNION ALL
SELECT 'signals', count(*), coalesce(sum(4 * (
    len(loss) + coalesce(len(entropy), 0) + coalesce(len(margin), 0) + coalesce(len(el2n), 0) + coalesce(len(grad_norm), 0))), 0)::BIGINT
FROM record.signal_values
WHERE signals_id IN (SELECT values_id FROM pruned_values)
   OR (
       sequence_id NOT IN (SELECT sequence_id FROM kept_links WHERE sequence_id IS NOT NULL)
       AND signals_id NOT IN (SELECT values_id FROM unfinished_values)
   )
UNION ALL
SELECT 'masks', count(*), coalesce(sum(strlen(settings)), 0)::BIGINT
FROM record.masks WHERE mask_id NOT IN (SELECT mask_id FROM kept_masks)
UNION ALL
SELECT 'mask_values', count(*), coalesce(sum(len(keep) // 8 + 1 + 4 * coalesce(len(weight), 0)), 0)::BIGINT
FROM record.mask_values
WHERE mask_id NOT IN (SELECT rows_id FROM kept_masks) OR sequence_id NOT IN (SELECT sequence_id FROM kept_links WHERE sequence_id IS NOT NULL)
UNION ALL
SELECT 'pointers', count(*), coalesce(sum(strlen(name) + strlen(value)), 0)::BIGINT
FROM record.pointers WHERE name NOT IN (SELECT name FROM kept_pointers)
UNION ALL
SELECT 'snapshots', count(*), 0
FROM record.snapshots WHERE (snapshot_id, role) NOT IN (SELECT (snapshot_id, role) FROM kept_snapshots)
UNION ALL
SELECT 'snapshot_examples', count(*), coalesce(sum(16 + coalesce(strlen(source), 0) + coalesce(strlen(extra), 0)), 0)::BIGINT
FROM record.snapshot_examples WHERE snapshot_id NOT IN (SELECT snapshot_id FROM kept_snapshots)
UNION ALL
SELECT 'rejected_rows', count(*), coalesce(sum(strlen(raw)), 0)::BIGINT
FROM record.rejected_rows WHERE snapshot_id NOT IN (SELECT snapshot_id FROM kept_snapshots)
UNION ALL
SELECT 'examples', count(*), coalesce(sum(strlen(content)), 0)::BIGINT
FROM record.examples
WHERE example_id NOT IN (
    SELECT members.example_id FROM record.snapshot_examples AS members
    SEMI JOIN kept_snapshots ON kept_snapshots.snapshot_id = members.snapshot_id
)
UNION ALL
SELECT 'tokenizations', count(*), coalesce(sum(strlen(settings)), 0)::BIGINT
FROM record.tokenizations WHERE tokenization_id NOT IN (SELECT tokenization_id FROM kept_tokenizations)
UNION ALL
SELECT 'vocabulary', count(*), coalesce(sum(strlen(token)), 0)::BIGINT
FROM record.vocabulary WHERE tokenizer_digest NOT IN (SELECT tokenizer_digest FROM kept_tokenizations)
UNION ALL
SELECT 'example_sequences', count(*), 0
FROM record.example_sequences
WHERE (tokenization_id, example_id, branch) NOT IN (SELECT (tokenization_id, example_id, branch) FROM kept_links)
UNION ALL
SELECT 'sequences', count(*), coalesce(sum(4 * (len(token_ids) + len(response_positions) + len(end_of_turn_positions))), 0)::BIGINT
FROM record.sequences WHERE sequence_id NOT IN (SELECT sequence_id FROM kept_links WHERE sequence_id IS NOT NULL)
UNION ALL
SELECT 'artifacts', count(*), 0
FROM record.artifacts WHERE NOT list_contains($artifact_keys::VARCHAR[], artifact_key)
UNION ALL
SELECT 'file_digests', count(*), 0
FROM record.file_digests WHERE len(list_filter($paths::VARCHAR[], lambda p: starts_with(path, p))) > 0
