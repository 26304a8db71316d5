-- Of mask_sequences: how many, how many have all four groups of values under the current scoring, and from which row on contents and each
-- group's values lie in their table. Grain: one row.
SELECT
    count(*) AS num_sequences, count(adapt_row + stab_row + signals_row + ref_signals_row) AS num_valued, coalesce(min(content_row), 0) AS contents,
    coalesce(min(adapt_row), 0) AS adapt, coalesce(min(stab_row), 0) AS stab, coalesce(min(signals_row), 0) AS signals,
    coalesce(min(ref_signals_row), 0) AS ref_signals
FROM mask_sequences
