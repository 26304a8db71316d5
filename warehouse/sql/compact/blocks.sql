-- Blocks of the live file, and how many of them are free. Grain: one row.
SELECT total_blocks, free_blocks, block_size FROM pragma_database_size() WHERE database_name = 'alphatoken'
