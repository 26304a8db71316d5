-- Contents of examples that no snapshot has any more; runs after the members are gone.
DELETE FROM record.examples
WHERE example_id NOT IN (SELECT example_id FROM record.snapshot_examples)
