-- Pin an artefact. Parameters: $artifact_key, $kind, $content_digest, $path, $settings, $details, $snapshot_id, $run_id.
INSERT INTO record.artifacts (artifact_key, kind, content_digest, path, settings, details, snapshot_id, run_id, created_at)
VALUES ($artifact_key, $kind, $content_digest, $path, $settings, $details, $snapshot_id, $run_id, make_timestamp(epoch_us(now())))
