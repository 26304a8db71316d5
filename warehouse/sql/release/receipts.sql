-- All receipts, for the identity of a release. Grain: one row per receipt.
SELECT stage, identity, num_rows FROM record.receipts ORDER BY ALL
