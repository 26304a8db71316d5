-- Free mask_sequences once a mask is made.
DROP TABLE IF EXISTS temp.mask_sequences
