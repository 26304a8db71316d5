-- A receipt, written in the transaction of the rows it stands for; nothing where it is there. Parameters: $stage, $identity, $num_rows, $run_id.
INSERT INTO record.receipts (stage, identity, num_rows, run_id, committed_at)
SELECT $stage, $identity, $num_rows, $run_id, make_timestamp(epoch_us(now()))
WHERE NOT EXISTS (SELECT 1 FROM record.receipts WHERE stage = $stage AND identity = $identity)
