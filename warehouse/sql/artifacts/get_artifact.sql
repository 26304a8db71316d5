-- A pinned artefact. Grain: at most one row. Parameters: $artifact_key.
SELECT content_digest, path, details, snapshot_id FROM record.artifacts WHERE artifact_key = $artifact_key
