-- Free mask_statistics once a mask is made.
DROP TABLE IF EXISTS temp.mask_statistics
