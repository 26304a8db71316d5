-- The response tokens of the current scoring, for the examples of the current snapshot.
-- Grain: one row per scoring, example, branch and response position.
CREATE OR REPLACE VIEW token_values AS
SELECT
    tokens.scoring_id, tokens.example_id, tokens.sequence_id, tokens.branch, tokens.source, tokens.position, tokens.token_id,
    vocabulary.token, tokens.adapt_direct, tokens.adapt_causal, tokens.stab_direct, tokens.stab_causal,
    tokens.loss, tokens.ref_loss, tokens.entropy, tokens.margin, tokens.el2n, tokens.grad_norm
FROM (
    SELECT
        scoring_id, record.hex_id(example_id) AS example_id, record.hex_id(sequence_id) AS sequence_id, branch, source, tokenizer_digest,
        unnest(response_positions) AS position,
        unnest(record.tokens_at(token_ids, response_positions)) AS token_id,
        unnest(adapt_direct) AS adapt_direct, unnest(adapt_causal) AS adapt_causal,
        unnest(stab_direct) AS stab_direct, unnest(stab_causal) AS stab_causal,
        unnest(loss) AS loss, unnest(ref_loss) AS ref_loss, unnest(entropy) AS entropy,
        unnest(margin) AS margin, unnest(el2n) AS el2n, unnest(grad_norm) AS grad_norm
    FROM record.value_lists
) AS tokens
LEFT JOIN record.vocabulary AS vocabulary
    ON vocabulary.tokenizer_digest = tokens.tokenizer_digest AND vocabulary.token_id = tokens.token_id
