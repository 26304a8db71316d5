-- Columns whose values are replaced by ranks. Grain: one row per column and sequence.
CREATE OR REPLACE TEMP TABLE mask_ranks (name VARCHAR, number UINTEGER, list DOUBLE[])
