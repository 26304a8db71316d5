-- Free mask_weights once a mask is made.
DROP TABLE IF EXISTS temp.mask_weights
