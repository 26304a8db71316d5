-- What a mask comes from, for the manifest of an export. Grain: one row. Parameters: $mask_id.
SELECT masks.settings, masks.scoring_id, masks.snapshot_id, scorings.tokenization_id, tokenizations.tokenizer_digest
FROM record.masks AS masks
JOIN record.scorings AS scorings ON scorings.scoring_id = masks.scoring_id
LEFT JOIN record.tokenizations AS tokenizations ON tokenizations.tokenization_id = scorings.tokenization_id
WHERE masks.mask_id = $mask_id
