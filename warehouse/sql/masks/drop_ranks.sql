-- Free mask_ranks once a mask is made.
DROP TABLE IF EXISTS temp.mask_ranks
