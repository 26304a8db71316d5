-- Examples tokenized under a tokenization. Grain: one row per example. Parameters: $tokenization_id.
SELECT record.hex_id(example_id) AS example_id FROM record.example_sequences WHERE tokenization_id = $tokenization_id
