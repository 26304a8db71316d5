-- Values of scorings and of sequences that go.
DELETE FROM record.direction_values
WHERE values_id IN (SELECT values_id FROM pruned_values)
   OR (
       sequence_id NOT IN (SELECT sequence_id FROM kept_links WHERE sequence_id IS NOT NULL)
       AND values_id NOT IN (SELECT values_id FROM unfinished_values)
   )
