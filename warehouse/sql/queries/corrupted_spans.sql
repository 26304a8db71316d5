-- Stretches of neighbouring response tokens that look corrupted: the reference finds them improbable and the validation loss gains
-- nothing from them. Suspicion is the rank of ref_loss less the rank of adapt_causal, each in [0, 1] over the data set, averaged over a
-- window of neighbours, as corruption comes in spans. Tokens among the most suspicious share that are neighbours make a span.
-- Grain: one row per span, the most suspicious first.
-- $share = 0.05: share of tokens taken for suspicious
-- $window = 9: response tokens averaged over, an odd number
-- $min_tokens = 3: shortest span
-- $limit = 50: number of rows
WITH long AS (
    SELECT
        example_id, branch, source, tokenizer_digest, unnest(range(len(response_positions))) AS place, unnest(response_positions) AS position,
        unnest(list_select(token_ids, list_transform(response_positions, lambda p: p + 1))) AS token_id,
        unnest(adapt_causal) AS adapt_causal, unnest(ref_loss) AS ref_loss
    FROM record.value_lists
),
ranked AS (
    SELECT
        * EXCLUDE (adapt_causal, ref_loss),
        percent_rank() OVER (ORDER BY ref_loss) - percent_rank() OVER (ORDER BY adapt_causal) AS suspicion
    FROM long
    WHERE adapt_causal IS NOT NULL AND ref_loss IS NOT NULL
),
pooled AS (
    SELECT
        * EXCLUDE (suspicion),
        avg(suspicion) OVER (
            PARTITION BY example_id, branch ORDER BY place
            RANGE BETWEEN $window::BIGINT // 2 PRECEDING AND $window::BIGINT // 2 FOLLOWING
        ) AS suspicion
    FROM ranked
),
suspicious AS (
    SELECT *, place - row_number() OVER (PARTITION BY example_id, branch ORDER BY place) AS span -- equal for neighbours
    FROM pooled
    QUALIFY row_number() OVER (ORDER BY suspicion DESC, example_id, branch, place) <= ceil($share::DOUBLE * count(*) OVER ())
)
SELECT
    suspicious.example_id, suspicious.branch, any_value(suspicious.source) AS source, min(suspicious.position) AS first_position,
    max(suspicious.position) AS last_position, count(*) AS num_tokens, avg(suspicious.suspicion) AS suspicion,
    string_agg(vocabulary.token, '' ORDER BY suspicious.place) AS text
FROM suspicious
LEFT JOIN record.vocabulary AS vocabulary
    ON vocabulary.tokenizer_digest = suspicious.tokenizer_digest AND vocabulary.token_id = suspicious.token_id
GROUP BY suspicious.example_id, suspicious.branch, suspicious.span
HAVING count(*) >= $min_tokens::BIGINT
ORDER BY avg(suspicious.suspicion) DESC, suspicious.example_id, suspicious.branch, first_position
LIMIT $limit::BIGINT
