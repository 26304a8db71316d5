-- Vocabularies that no tokenization has any more.
DELETE FROM record.vocabulary
WHERE tokenizer_digest NOT IN (SELECT tokenizer_digest FROM kept_tokenizations)
