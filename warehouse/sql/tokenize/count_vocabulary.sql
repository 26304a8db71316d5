-- Whether a tokenizer's vocabulary is stored. Parameters: $tokenizer_digest.
SELECT count(*) FROM record.vocabulary WHERE tokenizer_digest = $tokenizer_digest
