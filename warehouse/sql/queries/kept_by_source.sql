-- Share of response tokens that a policy keeps, by source, with the part of all kept tokens that a source has.
-- Grain: one row per source; NULL is the source of examples that name none.
-- $policy = default: whose mask
-- $branch = all: responses of one branch: sft, chosen or rejected; all
WITH per_sequence AS (
    SELECT members.source, kept.num_tokens, kept.num_kept
    FROM masks
    JOIN record.mask_rows AS kept ON kept.mask_id = masks.mask_id
    JOIN record.example_sequences AS links ON links.sequence_id = kept.sequence_id
    JOIN record.snapshot_examples AS members ON members.example_id = links.example_id
    WHERE masks.is_current AND masks.policy = $policy AND ($branch = 'all' OR links.branch = $branch)
      AND members.snapshot_id = (SELECT value FROM record.pointers WHERE name = 'snapshot')
      AND links.tokenization_id = (SELECT value FROM record.pointers WHERE name = 'tokenization')
)
SELECT
    source, count(*) AS num_sequences, sum(num_tokens)::BIGINT AS num_tokens, sum(num_kept)::BIGINT AS num_kept,
    sum(num_kept) / nullif(sum(num_tokens), 0) AS kept_share,
    sum(num_kept) / nullif(sum(sum(num_kept)) OVER (), 0) AS share_of_kept
FROM per_sequence
GROUP BY source
ORDER BY kept_share DESC, source
