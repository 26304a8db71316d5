-- The scores of a block of tokens: the macro mask_score, made for the policy (scores.py), on their columns as they are stored, as z-scores
-- and as ranks. The macro takes all of them and names the few it needs; what it does not name is not read.
-- Grain: one row per row of token, in its order. Parameters: the weights $adapt_direct, $adapt_causal, $stab_direct, $stab_causal, $loss,
-- $ref_loss, $entropy, $margin, $el2n, $grad_norm, at most 1 in size.
SELECT mask_score(
    adapt_direct::DOUBLE, adapt_causal::DOUBLE, stab_direct::DOUBLE, stab_causal::DOUBLE, loss::DOUBLE, ref_loss::DOUBLE, entropy::DOUBLE,
    margin::DOUBLE, el2n::DOUBLE, grad_norm::DOUBLE,
    zscore_adapt_direct, zscore_adapt_causal, zscore_stab_direct, zscore_stab_causal, zscore_loss, zscore_ref_loss, zscore_entropy,
    zscore_margin, zscore_el2n, zscore_grad_norm,
    rank_adapt_direct, rank_adapt_causal, rank_stab_direct, rank_stab_causal, rank_loss, rank_ref_loss, rank_entropy,
    rank_margin, rank_el2n, rank_grad_norm,
    $adapt_direct::DOUBLE, $adapt_causal::DOUBLE, $stab_direct::DOUBLE, $stab_causal::DOUBLE, $loss::DOUBLE, $ref_loss::DOUBLE,
    $entropy::DOUBLE, $margin::DOUBLE, $el2n::DOUBLE, $grad_norm::DOUBLE
)::DOUBLE AS score
FROM token
