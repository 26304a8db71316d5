-- Signals of scorings and of sequences that go.
DELETE FROM record.signal_values
WHERE signals_id IN (SELECT values_id FROM pruned_values)
   OR (
       sequence_id NOT IN (SELECT sequence_id FROM kept_links WHERE sequence_id IS NOT NULL)
       AND signals_id NOT IN (SELECT values_id FROM unfinished_values)
   )
