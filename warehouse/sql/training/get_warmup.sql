-- Folder of a warmed-up model, inside the warehouse's folder. Grain: at most one row. Parameters: $content_digest.
SELECT path FROM record.artifacts WHERE kind = 'warmup' AND content_digest = $content_digest
