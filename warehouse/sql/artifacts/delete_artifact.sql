-- Forget a pinned artefact. Parameters: $artifact_key.
DELETE FROM record.artifacts WHERE artifact_key = $artifact_key
