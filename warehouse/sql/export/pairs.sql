-- The preference examples of a mask: both branches, NULL where one became no sequence; losses under the reference model are NULL where the
-- scoring has none, weights for a mask without soft ones.
-- Grain: one row per example of the mask's snapshot with such a branch, in the stream's order. Parameters: $mask_id.
SELECT
    example_id, any_value(multiplicity) AS multiplicity,
    any_value(token_ids) FILTER (branch = 'chosen') AS chosen_ids, any_value(token_ids) FILTER (branch = 'rejected') AS rejected_ids,
    any_value(response_positions) FILTER (branch = 'chosen') AS chosen_positions,
    any_value(response_positions) FILTER (branch = 'rejected') AS rejected_positions,
    any_value(keep) FILTER (branch = 'chosen') AS chosen_keep, any_value(keep) FILTER (branch = 'rejected') AS rejected_keep,
    any_value(weight) FILTER (branch = 'chosen') AS chosen_weight, any_value(weight) FILTER (branch = 'rejected') AS rejected_weight,
    any_value(loss) FILTER (branch = 'chosen') AS chosen_ref_losses, any_value(loss) FILTER (branch = 'rejected') AS rejected_ref_losses
FROM (
    SELECT
        members.example_id, members.multiplicity, links.branch, sequences.token_ids, sequences.response_positions, kept.keep, kept.weight,
        signals.loss
    FROM record.masks AS masks
    JOIN record.scorings AS scorings ON scorings.scoring_id = masks.scoring_id
    JOIN record.snapshot_examples AS members ON members.snapshot_id = masks.snapshot_id
    JOIN record.example_sequences AS links ON links.example_id = members.example_id AND links.tokenization_id = scorings.tokenization_id
    LEFT JOIN record.sequences AS sequences ON sequences.sequence_id = links.sequence_id
    LEFT JOIN record.mask_rows AS kept ON kept.sequence_id = links.sequence_id AND kept.mask_id = masks.mask_id
    LEFT JOIN record.signal_values AS signals
        ON signals.sequence_id = links.sequence_id AND signals.signals_id = scorings.ref_signals_id
    WHERE masks.mask_id = $mask_id AND links.branch IN ('chosen', 'rejected')
)
GROUP BY example_id
HAVING count(token_ids) > 0
ORDER BY example_id
