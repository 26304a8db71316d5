-- A scoring. Parameters: $scoring_id, $tokenization_id, $adapt_values_id, $stab_values_id, $signals_id, $ref_signals_id, $settings, $run_id.
INSERT INTO record.scorings (
    scoring_id, tokenization_id, adapt_values_id, stab_values_id, signals_id, ref_signals_id, settings, run_id, created_at
)
VALUES (
    $scoring_id, $tokenization_id, $adapt_values_id, $stab_values_id, $signals_id, $ref_signals_id, $settings, $run_id, make_timestamp(epoch_us(now()))
)
