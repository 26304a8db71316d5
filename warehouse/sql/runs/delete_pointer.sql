-- Forget which thing of a kind is current. Parameters: $name.
DELETE FROM record.pointers WHERE name = $name
