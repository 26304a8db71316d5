-- Scores for selection by value: the macro mask_score, made for the policy (policies.py), on the columns of each token as they are stored,
-- as z-scores and as ranks. The macro takes all of them and names the few it needs; what it does not name is not read.
-- Values of a direction count times the weight of their sequence (ω of a pair), also in z-scores and ranks.
-- NULL, not eligible: where the macro gives NULL or no finite number of at most 1e300 in size, and where the token is protected.
-- With a window, a score becomes the mean of the non-NULL scores of the response tokens at most $reach positions away, added up in
-- the order of positions; a NULL stays NULL. The score is pooled, not each column: the mean of a sum is the sum of the means, and
-- one list is pooled instead of several. Where the response has no gaps the window is a slice, which costs no comparison of positions.
-- Sums that are equal on paper (the ranks 0.2 + 0.4 and 0 + 0.6) still differ in the last of 53 bits: the score is rounded to 37 bits,
-- s * 65537 - (s * 65537 - s), which keeps apart whatever 24-bit values keep apart.
-- Positions ascend. Grain: one row per sequence. Parameters: $protect: whether end-of-turn tokens are protected; $reach: half the window,
-- 0 without one; $adapt_direct, $adapt_causal, $stab_direct, $stab_causal, $loss, $ref_loss, $entropy, $margin, $el2n, $grad_norm: weights,
-- at most 1 in size.
CREATE OR REPLACE TEMP TABLE mask_scores AS
WITH statistics AS (
    SELECT
        normalize_group,
        min(mean) FILTER (name = 'adapt_direct') AS adapt_direct_mean, min(factor) FILTER (name = 'adapt_direct') AS adapt_direct_factor,
        min(mean) FILTER (name = 'adapt_causal') AS adapt_causal_mean, min(factor) FILTER (name = 'adapt_causal') AS adapt_causal_factor,
        min(mean) FILTER (name = 'stab_direct') AS stab_direct_mean, min(factor) FILTER (name = 'stab_direct') AS stab_direct_factor,
        min(mean) FILTER (name = 'stab_causal') AS stab_causal_mean, min(factor) FILTER (name = 'stab_causal') AS stab_causal_factor,
        min(mean) FILTER (name = 'loss') AS loss_mean, min(factor) FILTER (name = 'loss') AS loss_factor,
        min(mean) FILTER (name = 'ref_loss') AS ref_loss_mean, min(factor) FILTER (name = 'ref_loss') AS ref_loss_factor,
        min(mean) FILTER (name = 'entropy') AS entropy_mean, min(factor) FILTER (name = 'entropy') AS entropy_factor,
        min(mean) FILTER (name = 'margin') AS margin_mean, min(factor) FILTER (name = 'margin') AS margin_factor,
        min(mean) FILTER (name = 'el2n') AS el2n_mean, min(factor) FILTER (name = 'el2n') AS el2n_factor,
        min(mean) FILTER (name = 'grad_norm') AS grad_norm_mean, min(factor) FILTER (name = 'grad_norm') AS grad_norm_factor
    FROM mask_statistics
    GROUP BY normalize_group
),
keys AS ( -- joined before the stored lists are: every join that a list goes through costs a copy
    SELECT
        sequences.number, sequences.sequence_id, sequences.select_group, sequences.weight, statistics.* EXCLUDE (normalize_group),
        rank_adapt_direct.list AS rank_adapt_direct, rank_adapt_causal.list AS rank_adapt_causal,
        rank_stab_direct.list AS rank_stab_direct, rank_stab_causal.list AS rank_stab_causal,
        rank_loss.list AS rank_loss, rank_ref_loss.list AS rank_ref_loss, rank_entropy.list AS rank_entropy,
        rank_margin.list AS rank_margin, rank_el2n.list AS rank_el2n, rank_grad_norm.list AS rank_grad_norm
    FROM mask_sequences AS sequences
    LEFT JOIN statistics ON statistics.normalize_group = sequences.normalize_group
    LEFT JOIN mask_ranks AS rank_adapt_direct ON rank_adapt_direct.number = sequences.number AND rank_adapt_direct.name = 'adapt_direct'
    LEFT JOIN mask_ranks AS rank_adapt_causal ON rank_adapt_causal.number = sequences.number AND rank_adapt_causal.name = 'adapt_causal'
    LEFT JOIN mask_ranks AS rank_stab_direct ON rank_stab_direct.number = sequences.number AND rank_stab_direct.name = 'stab_direct'
    LEFT JOIN mask_ranks AS rank_stab_causal ON rank_stab_causal.number = sequences.number AND rank_stab_causal.name = 'stab_causal'
    LEFT JOIN mask_ranks AS rank_loss ON rank_loss.number = sequences.number AND rank_loss.name = 'loss'
    LEFT JOIN mask_ranks AS rank_ref_loss ON rank_ref_loss.number = sequences.number AND rank_ref_loss.name = 'ref_loss'
    LEFT JOIN mask_ranks AS rank_entropy ON rank_entropy.number = sequences.number AND rank_entropy.name = 'entropy'
    LEFT JOIN mask_ranks AS rank_margin ON rank_margin.number = sequences.number AND rank_margin.name = 'margin'
    LEFT JOIN mask_ranks AS rank_el2n ON rank_el2n.number = sequences.number AND rank_el2n.name = 'el2n'
    LEFT JOIN mask_ranks AS rank_grad_norm ON rank_grad_norm.number = sequences.number AND rank_grad_norm.name = 'grad_norm'
),
scored AS (
    SELECT
        sequences.number, sequences.sequence_id, sequences.select_group, contents.response_positions AS positions,
        CASE WHEN $protect THEN list_filter(
            list_transform(contents.end_of_turn_positions, lambda p: list_position(contents.response_positions, p)::BIGINT), lambda i: i > 0
        ) ELSE [] END AS protected_places,
        list_transform(contents.response_positions, lambda position, i: mask_score(
            adapt.direct[i]::DOUBLE * sequences.weight,
            adapt.causal[i]::DOUBLE * sequences.weight,
            stab.direct[i]::DOUBLE * sequences.weight,
            stab.causal[i]::DOUBLE * sequences.weight,
            signals.loss[i]::DOUBLE,
            ref_signals.loss[i]::DOUBLE,
            signals.entropy[i]::DOUBLE,
            signals.margin[i]::DOUBLE,
            signals.el2n[i]::DOUBLE,
            signals.grad_norm[i]::DOUBLE,
            (adapt.direct[i]::DOUBLE * sequences.weight - sequences.adapt_direct_mean) * sequences.adapt_direct_factor,
            (adapt.causal[i]::DOUBLE * sequences.weight - sequences.adapt_causal_mean) * sequences.adapt_causal_factor,
            (stab.direct[i]::DOUBLE * sequences.weight - sequences.stab_direct_mean) * sequences.stab_direct_factor,
            (stab.causal[i]::DOUBLE * sequences.weight - sequences.stab_causal_mean) * sequences.stab_causal_factor,
            (signals.loss[i]::DOUBLE - sequences.loss_mean) * sequences.loss_factor,
            (ref_signals.loss[i]::DOUBLE - sequences.ref_loss_mean) * sequences.ref_loss_factor,
            (signals.entropy[i]::DOUBLE - sequences.entropy_mean) * sequences.entropy_factor,
            (signals.margin[i]::DOUBLE - sequences.margin_mean) * sequences.margin_factor,
            (signals.el2n[i]::DOUBLE - sequences.el2n_mean) * sequences.el2n_factor,
            (signals.grad_norm[i]::DOUBLE - sequences.grad_norm_mean) * sequences.grad_norm_factor,
            sequences.rank_adapt_direct[i],
            sequences.rank_adapt_causal[i],
            sequences.rank_stab_direct[i],
            sequences.rank_stab_causal[i],
            sequences.rank_loss[i],
            sequences.rank_ref_loss[i],
            sequences.rank_entropy[i],
            sequences.rank_margin[i],
            sequences.rank_el2n[i],
            sequences.rank_grad_norm[i],
            $adapt_direct, $adapt_causal, $stab_direct, $stab_causal, $loss, $ref_loss, $entropy, $margin, $el2n, $grad_norm
        )::DOUBLE) AS scores
    FROM keys AS sequences
    CROSS JOIN (SELECT * FROM record.scorings WHERE scoring_id = (SELECT value FROM record.pointers WHERE name = 'scoring')) AS scorings
    JOIN record.sequences AS contents ON contents.sequence_id = sequences.sequence_id
    JOIN record.direction_values AS adapt
        ON adapt.values_id = scorings.adapt_values_id AND adapt.sequence_id = sequences.sequence_id
    JOIN record.direction_values AS stab
        ON stab.values_id = scorings.stab_values_id AND stab.sequence_id = sequences.sequence_id
    JOIN record.signal_values AS signals
        ON signals.signals_id = scorings.signals_id AND signals.sequence_id = sequences.sequence_id
    JOIN record.signal_values AS ref_signals
        ON ref_signals.signals_id = scorings.ref_signals_id AND ref_signals.sequence_id = sequences.sequence_id
),
pooled AS (
    SELECT
        number, sequence_id, select_group, protected_places,
        CASE
            WHEN $reach = 0 THEN scores
            WHEN positions[-1] - positions[1] = len(positions) - 1 THEN
                list_transform(scores, lambda s, i: CASE WHEN s IS NOT NULL THEN list_avg(scores[greatest(i - $reach, 1):i + $reach]) END)
            ELSE
                list_transform(scores, lambda s, i: CASE WHEN s IS NOT NULL THEN
                    list_avg(list_filter(scores[greatest(i - $reach, 1):i + $reach], lambda other, j:
                        abs(positions[greatest(i - $reach, 1) + j - 1] - positions[i]) <= $reach))
                END)
        END AS scores
    FROM scored
)
SELECT
    number, sequence_id, select_group, protected_places,
    list_transform(scores, lambda s, i:
        CASE WHEN abs(s) <= 1e300 AND NOT list_contains(protected_places, i) THEN s * 65537 - (s * 65537 - s) END
    ) AS scores
FROM pooled
