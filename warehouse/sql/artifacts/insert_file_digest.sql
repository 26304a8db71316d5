-- Remember the digest of a file. Parameters: $path, $num_bytes, $mtime_ns, $digest.
INSERT INTO record.file_digests (path, num_bytes, mtime_ns, digest) VALUES ($path, $num_bytes, $mtime_ns, $digest)
