-- Runs that are noted as running.
SELECT count(*) FROM record.runs WHERE state = 'running'
