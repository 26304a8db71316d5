-- Content of an example. Grain: one row. Parameters: $example_id.
SELECT content FROM record.examples WHERE example_id = $example_id::UUID
