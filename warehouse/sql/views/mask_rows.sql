-- What masks keep, as lists beside the response positions. Rows that do not depend on other sequences are stored once for the masks of all
-- snapshots: a mask may have more rows here than its snapshot has sequences.
-- Grain: one row per mask and sequence.
CREATE OR REPLACE VIEW record.mask_rows AS
SELECT masks.mask_id, stored.sequence_id, stored.keep, stored.weight, stored.num_tokens, stored.num_kept
FROM record.masks AS masks
JOIN record.mask_values AS stored ON stored.mask_id = coalesce(masks.rows_id, masks.mask_id)
