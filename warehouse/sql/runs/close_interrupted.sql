-- Mark the runs that a killed process left open.
UPDATE record.runs SET state = 'interrupted' WHERE state = 'running'
