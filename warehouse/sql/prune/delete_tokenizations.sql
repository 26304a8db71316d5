-- Tokenizations that go.
DELETE FROM record.tokenizations
WHERE tokenization_id NOT IN (SELECT tokenization_id FROM kept_tokenizations)
