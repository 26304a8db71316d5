-- Whether a stage is done for an identity. Parameters: $stage, $identity.
SELECT count(*) FROM record.receipts WHERE stage = $stage AND identity = $identity
