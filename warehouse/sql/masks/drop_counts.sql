-- Free mask_counts once a mask is made.
DROP TABLE IF EXISTS temp.mask_counts
