-- Free the values that a mask was computed from. No parameters.
DROP TABLE IF EXISTS temp.mask_tokens
