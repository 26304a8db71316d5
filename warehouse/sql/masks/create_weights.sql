-- Weights of a soft policy; stays empty for a hard one. Grain: one row per sequence.
CREATE OR REPLACE TEMP TABLE mask_weights (number UINTEGER, list FLOAT[])
