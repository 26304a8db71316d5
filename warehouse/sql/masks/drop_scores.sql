-- Free the scores that a mask was computed from. No parameters.
DROP TABLE IF EXISTS temp.mask_scores
