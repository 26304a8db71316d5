-- Examples of which a policy keeps nothing, or only the end-of-turn tokens, which are protected by default.
-- Grain: one row per example and branch, the longest response first.
-- $policy = default: whose mask
-- $limit = 100: number of rows
SELECT
    record.hex_id(current.example_id) AS example_id, current.branch, current.source, kept.num_tokens, kept.num_kept,
    contents.content
FROM masks
JOIN record.mask_rows AS kept ON kept.mask_id = masks.mask_id
JOIN record.current_sequences AS current ON current.sequence_id = kept.sequence_id
JOIN record.examples AS contents ON contents.example_id = current.example_id
WHERE masks.is_current AND masks.policy = $policy
  AND NOT list_contains(
      list_transform(kept.keep, lambda k, i: k AND NOT list_contains(current.end_of_turn_positions, current.response_positions[i])), true
  )
ORDER BY num_tokens DESC, current.example_id, current.branch
LIMIT $limit::BIGINT
