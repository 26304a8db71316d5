-- A receipt, written in the transaction of the rows it stands for. Parameters: $stage, $identity, $num_rows, $run_id.
INSERT INTO record.receipts (stage, identity, num_rows, run_id, committed_at)
VALUES ($stage, $identity, $num_rows, $run_id, make_timestamp(epoch_us(now())))
