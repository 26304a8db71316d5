-- Forget the digest of a file. Parameters: $path.
DELETE FROM record.file_digests WHERE path = $path
