-- How far the masks of two policies agree: tokens kept by both, by one, by none; kept by both over kept by any (Jaccard); and that
-- figure for two masks of these sizes that know nothing of one another.
-- Grain: one row.
-- $policy = default: one of them
-- $policy_other = random: the other
-- $branch = all: responses of one branch: sft, chosen or rejected; all
WITH per_sequence AS (
    SELECT
        len(one.keep) AS num_tokens, len(list_filter(one.keep, lambda k: k)) AS num_one, len(list_filter(other.keep, lambda k: k)) AS num_other,
        len(list_filter(one.keep, lambda k, i: k AND other.keep[i])) AS num_both
    FROM masks AS masks_one
    JOIN record.mask_rows AS one ON one.mask_id = masks_one.mask_id
    JOIN masks AS masks_other ON masks_other.is_current AND masks_other.policy = $policy_other
    JOIN record.mask_rows AS other ON other.mask_id = masks_other.mask_id AND other.sequence_id = one.sequence_id
    JOIN record.current_sequences AS current ON current.sequence_id = one.sequence_id
    WHERE masks_one.is_current AND masks_one.policy = $policy AND ($branch = 'all' OR current.branch = $branch)
),
totals AS (
    SELECT
        coalesce(sum(num_tokens), 0)::BIGINT AS num_tokens, coalesce(sum(num_both), 0)::BIGINT AS num_both,
        coalesce(sum(num_one - num_both), 0)::BIGINT AS num_only_one, coalesce(sum(num_other - num_both), 0)::BIGINT AS num_only_other
    FROM per_sequence
),
chance AS (
    SELECT *, (num_both + num_only_one) / nullif(num_tokens, 0) * (num_both + num_only_other) AS both_by_chance FROM totals
)
SELECT
    num_tokens, num_both, num_only_one, num_only_other, num_tokens - num_both - num_only_one - num_only_other AS num_neither,
    num_both / nullif(num_both + num_only_one + num_only_other, 0) AS jaccard,
    both_by_chance / nullif(2 * num_both + num_only_one + num_only_other - both_by_chance, 0) AS jaccard_by_chance
FROM chance
