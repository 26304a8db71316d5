-- Remembered digests of files that go. Parameters: $paths (a list: beginnings of their paths).
DELETE FROM record.file_digests
WHERE len(list_filter($paths::VARCHAR[], lambda p: starts_with(path, p))) > 0
