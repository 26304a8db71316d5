-- Pointers of policies that go.
DELETE FROM record.pointers
WHERE name NOT IN (SELECT name FROM kept_pointers)
