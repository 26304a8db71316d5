-- All pinned artefacts. Grain: one row per artefact.
SELECT artifact_key, kind, content_digest, path, details FROM record.artifacts ORDER BY artifact_key
