-- Record tables. Users read the views; these hold one row per example, sequence, mask or run, token data as lists.
-- Identities of examples and sequences, 32 hexadecimal digits, are stored as the 16 bytes they stand for (type UUID): they are what tables are
-- joined on. They come and go as their digits; record.hex_id writes them so.
-- The files of this folder have several statements: they run once, on an empty database.
CREATE SCHEMA record;

CREATE TABLE record.meta (schema_version INTEGER, created_at TIMESTAMP);

CREATE TABLE record.runs (
    run_id VARCHAR, flow VARCHAR, state VARCHAR, started_at TIMESTAMP, finished_at TIMESTAMP,
    configuration VARCHAR, versions VARCHAR, git_sha VARCHAR, seed BIGINT, host VARCHAR, counts VARCHAR, error VARCHAR
);

CREATE TABLE record.snapshots (
    snapshot_id VARCHAR, role VARCHAR, kind VARCHAR, num_examples UBIGINT, num_rows UBIGINT, num_rejected UBIGINT, run_id VARCHAR, created_at TIMESTAMP
);

CREATE TABLE record.examples (example_id UUID, content VARCHAR);

CREATE TABLE record.snapshot_examples (
    snapshot_id VARCHAR, example_id UUID, multiplicity UINTEGER, source VARCHAR, extra VARCHAR, file VARCHAR, line UINTEGER
);

CREATE TABLE record.rejected_rows (snapshot_id VARCHAR, file VARCHAR, line UINTEGER, reason VARCHAR, raw VARCHAR);

CREATE TABLE record.tokenizations (
    tokenization_id VARCHAR, tokenizer_digest VARCHAR, settings VARCHAR, run_id VARCHAR, created_at TIMESTAMP
);

CREATE TABLE record.vocabulary (tokenizer_digest VARCHAR, token_id INTEGER, token VARCHAR);

CREATE TABLE record.example_sequences (
    tokenization_id VARCHAR, example_id UUID, branch VARCHAR, sequence_id UUID,
    num_prompt_tokens_cut UINTEGER, num_response_tokens_cut UINTEGER, reason VARCHAR, detail VARCHAR
);

CREATE TABLE record.sequences (
    sequence_id UUID, token_ids INTEGER[], response_positions INTEGER[], end_of_turn_positions INTEGER[]
);

CREATE TABLE record.artifacts (
    artifact_key VARCHAR, kind VARCHAR, content_digest VARCHAR, path VARCHAR, settings VARCHAR, details VARCHAR,
    snapshot_id VARCHAR, run_id VARCHAR, created_at TIMESTAMP
);

CREATE TABLE record.direction_values (
    values_id VARCHAR, sequence_id UUID, direct FLOAT[], causal FLOAT[], prompt_context DOUBLE
);

CREATE TABLE record.signal_values (
    signals_id VARCHAR, sequence_id UUID, loss FLOAT[], entropy FLOAT[], margin FLOAT[], el2n FLOAT[], grad_norm FLOAT[]
);

CREATE TABLE record.scorings (
    scoring_id VARCHAR, tokenization_id VARCHAR, adapt_values_id VARCHAR, stab_values_id VARCHAR, signals_id VARCHAR,
    ref_signals_id VARCHAR, settings VARCHAR, run_id VARCHAR, created_at TIMESTAMP
);

CREATE TABLE record.masks (
    mask_id VARCHAR, policy VARCHAR, settings VARCHAR, scoring_id VARCHAR, snapshot_id VARCHAR, num_tokens UBIGINT,
    num_kept UBIGINT, run_id VARCHAR, created_at TIMESTAMP,
    rows_id VARCHAR -- rows of mask_values that masks of several snapshots share; NULL: those of its own mask_id
);

-- mask_id: the mask, or the rows_id of the masks that share the row.
CREATE TABLE record.mask_values (
    mask_id VARCHAR, sequence_id UUID, keep BOOLEAN[], weight FLOAT[], num_tokens UINTEGER, num_kept UINTEGER
);

CREATE TABLE record.receipts (stage VARCHAR, identity VARCHAR, num_rows UBIGINT, run_id VARCHAR, committed_at TIMESTAMP);

CREATE TABLE record.pointers (name VARCHAR, value VARCHAR);

CREATE TABLE record.trainings (
    training_id VARCHAR, policy VARCHAR, mask_id VARCHAR, release_id VARCHAR, settings VARCHAR, checkpoint VARCHAR,
    state VARCHAR, run_id VARCHAR, created_at TIMESTAMP
);

CREATE TABLE record.training_metrics (training_id VARCHAR, step UBIGINT, metric VARCHAR, value DOUBLE);

CREATE TABLE record.file_digests (path VARCHAR, num_bytes UBIGINT, mtime_ns BIGINT, digest VARCHAR);
