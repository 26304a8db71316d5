-- Pinned artefacts that go. Parameters: $artifact_keys (a list: artefacts that stay).
DELETE FROM record.artifacts
WHERE NOT list_contains($artifact_keys::VARCHAR[], artifact_key)
