-- Share of response tokens that a policy keeps, by what a token is written with, spaces around it left aside: letters (with ' inside),
-- digits, punctuation (signs and symbols), white space, special (control tokens such as <|im_end|>), mixed, or unknown.
-- Counted per id of the vocabulary first, so that a text is classified once.
-- Grain: one row per class of token.
-- $policy = default: whose mask
-- $branch = all: responses of one branch: sft, chosen or rejected; all
WITH long AS (
    SELECT
        tokenizations.tokenizer_digest,
        unnest(record.tokens_at(current.token_ids, current.response_positions)) AS token_id,
        unnest(kept.keep) AS keep
    FROM masks
    JOIN record.mask_rows AS kept ON kept.mask_id = masks.mask_id
    JOIN record.current_sequences AS current ON current.sequence_id = kept.sequence_id
    JOIN record.tokenizations AS tokenizations
        ON tokenizations.tokenization_id = (SELECT value FROM record.pointers WHERE name = 'tokenization')
    WHERE masks.is_current AND masks.policy = $policy AND ($branch = 'all' OR current.branch = $branch)
),
per_id AS (
    SELECT tokenizer_digest, token_id, count(*) AS num_tokens, count(*) FILTER (keep) AS num_kept FROM long GROUP BY ALL
),
classified AS (
    SELECT
        CASE
            WHEN vocabulary.token IS NULL OR vocabulary.token = '' THEN 'unknown'
            WHEN regexp_full_match(vocabulary.token, '<0x[0-9A-F]{2}>') THEN 'mixed' -- a byte of a character
            WHEN regexp_full_match(vocabulary.token, '<\|?[^<>\s]{2,}\|?>|\[[A-Z_]{2,}\]|<｜[^<>]+｜>') THEN 'special'
            WHEN regexp_full_match(vocabulary.token, '[\s\pZ]+') THEN 'white space'
            WHEN regexp_full_match(vocabulary.token, '[\s\pZ]*[\pL\pM][\pL\pM''’]*[\s\pZ]*') THEN 'letters'
            WHEN regexp_full_match(vocabulary.token, '[\s\pZ]*\pN+[\s\pZ]*') THEN 'digits'
            WHEN regexp_full_match(vocabulary.token, '[\s\pZ]*[\pP\pS]+[\s\pZ]*') THEN 'punctuation'
            ELSE 'mixed'
        END AS token_class,
        per_id.num_tokens, per_id.num_kept
    FROM per_id
    LEFT JOIN record.vocabulary AS vocabulary
        ON vocabulary.tokenizer_digest = per_id.tokenizer_digest AND vocabulary.token_id = per_id.token_id
)
SELECT
    token_class, sum(num_tokens)::BIGINT AS num_tokens, sum(num_kept)::BIGINT AS num_kept, sum(num_kept) / sum(num_tokens) AS kept_share
FROM classified
GROUP BY token_class
ORDER BY num_tokens DESC, token_class
