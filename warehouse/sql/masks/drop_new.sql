-- Free mask_new once mask_sequences is made.
DROP TABLE IF EXISTS temp.mask_new
