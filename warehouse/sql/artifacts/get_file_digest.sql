-- The remembered digest of a file. Parameters: $path, $num_bytes, $mtime_ns.
SELECT digest FROM record.file_digests WHERE path = $path AND num_bytes = $num_bytes AND mtime_ns = $mtime_ns
