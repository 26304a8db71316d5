-- Mean and 1 / population deviation of columns in their normalisation groups. Grain: one row per column and group.
CREATE OR REPLACE TEMP TABLE mask_statistics (name VARCHAR, normalize_group UINTEGER, mean DOUBLE, factor DOUBLE)
