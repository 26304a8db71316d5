-- Sequences that no example has any more.
DELETE FROM record.sequences
WHERE sequence_id NOT IN (SELECT sequence_id FROM kept_links WHERE sequence_id IS NOT NULL)
