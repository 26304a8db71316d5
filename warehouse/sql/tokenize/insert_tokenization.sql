-- A tokenization. Parameters: $tokenization_id, $tokenizer_digest, $settings, $run_id.
INSERT INTO record.tokenizations (tokenization_id, tokenizer_digest, settings, run_id, created_at)
VALUES ($tokenization_id, $tokenizer_digest, $settings, $run_id, make_timestamp(epoch_us(now())))
