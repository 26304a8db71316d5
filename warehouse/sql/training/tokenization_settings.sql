-- Settings of a tokenization. Grain: one row. Parameters: $tokenization_id.
SELECT settings FROM record.tokenizations WHERE tokenization_id = $tokenization_id
