-- Settings of the current scoring. Grain: at most one row.
SELECT settings FROM scorings WHERE is_current
