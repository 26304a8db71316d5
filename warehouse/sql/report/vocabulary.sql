-- Texts of the vocabulary of the current scoring. Grain: one row per id.
SELECT vocabulary.token_id, vocabulary.token
FROM record.vocabulary AS vocabulary
JOIN record.tokenizations AS tokenizations ON tokenizations.tokenizer_digest = vocabulary.tokenizer_digest
JOIN scorings ON scorings.tokenization_id = tokenizations.tokenization_id AND scorings.is_current
