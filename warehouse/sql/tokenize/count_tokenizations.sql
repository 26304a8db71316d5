-- Whether a tokenization is stored. Parameters: $tokenization_id.
SELECT count(*) FROM record.tokenizations WHERE tokenization_id = $tokenization_id
