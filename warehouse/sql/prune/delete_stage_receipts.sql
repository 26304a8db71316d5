-- Receipts of a stage whose rows were thinned out: others take their place. Parameters: $stage.
DELETE FROM record.receipts
WHERE stage = $stage
