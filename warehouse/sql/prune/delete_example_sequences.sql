-- What became of examples that go, and of all under a tokenization that goes.
DELETE FROM record.example_sequences
WHERE (tokenization_id, example_id, branch) NOT IN (SELECT (tokenization_id, example_id, branch) FROM kept_links)
