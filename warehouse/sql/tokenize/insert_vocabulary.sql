-- Texts of a tokenizer's tokens. Reads: incoming (token_id, token). Parameters: $tokenizer_digest.
INSERT INTO record.vocabulary (tokenizer_digest, token_id, token)
SELECT $tokenizer_digest, token_id, token
FROM incoming
