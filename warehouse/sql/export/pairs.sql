-- The preference examples of a mask: both branches, NULL where one became no sequence; losses under the reference model are NULL where the
-- scoring has none, weights for a mask without soft ones.
-- Grain: one row per example of the mask's snapshot with such a branch, in the stream's order. Parameters: $mask_id.
SELECT
    record.hex_id(example_id) AS example_id, any_value(multiplicity) AS multiplicity,
    any_value(token_ids) FILTER (branch = 'chosen') AS chosen_ids, any_value(token_ids) FILTER (branch = 'rejected') AS rejected_ids,
    any_value(response_positions) FILTER (branch = 'chosen') AS chosen_positions,
    any_value(response_positions) FILTER (branch = 'rejected') AS rejected_positions,
    any_value(keep) FILTER (branch = 'chosen') AS chosen_keep, any_value(keep) FILTER (branch = 'rejected') AS rejected_keep,
    any_value(weight) FILTER (branch = 'chosen') AS chosen_weight, any_value(weight) FILTER (branch = 'rejected') AS rejected_weight,
    any_value(loss) FILTER (branch = 'chosen') AS chosen_ref_losses, any_value(loss) FILTER (branch = 'rejected') AS rejected_ref_losses
FROM (
    SELECT
        masked.example_id, masked.multiplicity, masked.branch, sequences.token_ids, sequences.response_positions, kept.keep, kept.weight,
        signals.loss
    FROM record.masked_sequences AS masked
    LEFT JOIN record.sequences AS sequences ON sequences.sequence_id = masked.sequence_id
    LEFT JOIN record.mask_rows AS kept ON kept.sequence_id = masked.sequence_id AND kept.mask_id = masked.mask_id
    LEFT JOIN record.signal_values AS signals
        ON signals.sequence_id = masked.sequence_id AND signals.signals_id = masked.ref_signals_id
    WHERE masked.mask_id = $mask_id AND masked.branch IN ('chosen', 'rejected')
)
GROUP BY example_id
HAVING count(token_ids) > 0
ORDER BY example_id
