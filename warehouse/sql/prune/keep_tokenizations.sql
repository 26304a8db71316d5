-- Tokenizations that stay: the current one, those of scorings that stay, and, unless $unfinished, those that no scoring has used yet.
-- Grain: one row per tokenization. Parameters: $unfinished.
CREATE OR REPLACE TEMP TABLE kept_tokenizations AS
SELECT tokenization_id, tokenizer_digest
FROM record.tokenizations
WHERE tokenization_id IN (SELECT value FROM kept_pointers WHERE name = 'tokenization')
   OR tokenization_id IN (SELECT tokenization_id FROM kept_scorings)
   OR (NOT $unfinished::BOOLEAN AND tokenization_id NOT IN (SELECT tokenization_id FROM record.scorings))
