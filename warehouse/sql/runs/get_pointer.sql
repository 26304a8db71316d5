-- Which thing of a kind is current. Parameters: $name.
SELECT value FROM record.pointers WHERE name = $name
