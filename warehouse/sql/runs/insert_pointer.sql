-- Make a thing of a kind current. Parameters: $name, $value.
INSERT INTO record.pointers (name, value) VALUES ($name, $value)
