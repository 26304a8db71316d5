-- Free mask_scores once a mask is made.
DROP TABLE IF EXISTS temp.mask_scores
