-- What the current training examples are: sft or preference. Grain: one row; none before there is a snapshot.
SELECT kind FROM snapshots WHERE role = 'train' AND is_current
