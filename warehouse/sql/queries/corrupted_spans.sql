-- Stretches of neighbouring response tokens that look corrupted: the reference finds them improbable and the validation loss gains
-- nothing from them. Suspicion is the rank of ref_loss less the rank of adapt_causal, each in [0, 1] over the data set, averaged over a
-- window of neighbours, as corruption comes in spans. Tokens among the most suspicious share that are neighbours make a span.
-- Values that agree in sign, exponent and the first 12 bits behind the point share a rank: ranks are counts then, and no sort of all tokens.
-- Grain: one row per span, the most suspicious first.
-- $share = 0.05: share of tokens taken for suspicious
-- $window = 9: response tokens averaged over, an odd number
-- $min_tokens = 3: shortest span
-- $limit = 50: number of rows
WITH items AS (
    SELECT row_number() OVER (ORDER BY links.example_id, links.branch)::INTEGER AS item, links.example_id, links.branch, members.source,
        links.sequence_id
    FROM record.snapshot_examples AS members
    JOIN record.example_sequences AS links ON links.example_id = members.example_id
    WHERE members.snapshot_id = (SELECT value FROM record.pointers WHERE name = 'snapshot')
      AND links.tokenization_id = (SELECT value FROM record.pointers WHERE name = 'tokenization')
      AND links.sequence_id IS NOT NULL
),
lists AS (
    SELECT
        items.item, ref_signals.loss AS ref_loss,
        CASE WHEN pairs.weight IS NULL THEN adapt.causal ELSE list_transform(adapt.causal, lambda x: (pairs.weight * x)::FLOAT) END AS adapt_causal
    FROM items
    CROSS JOIN (SELECT * FROM record.scorings WHERE scoring_id = (SELECT value FROM record.pointers WHERE name = 'scoring')) AS scorings
    JOIN record.direction_values AS adapt ON adapt.values_id = scorings.adapt_values_id AND adapt.sequence_id = items.sequence_id
    JOIN record.signal_values AS ref_signals
        ON ref_signals.signals_id = scorings.ref_signals_id AND ref_signals.sequence_id = items.sequence_id
    LEFT JOIN record.current_pairs AS pairs ON pairs.example_id = items.example_id
),
long AS MATERIALIZED (
    SELECT item, place, record.rank_key(ref_loss) AS ref_key, record.rank_key(adapt_causal) AS causal_key
    FROM (
        SELECT item, unnest(range(len(ref_loss)))::INTEGER AS place, unnest(ref_loss) AS ref_loss, unnest(adapt_causal) AS adapt_causal FROM lists
    )
    WHERE adapt_causal IS NOT NULL AND ref_loss IS NOT NULL
),
ref_ranks AS (
    SELECT ref_key, (sum(count(*)) OVER (ORDER BY ref_key) - count(*)) / greatest(sum(count(*)) OVER () - 1, 1) AS share FROM long GROUP BY ref_key
),
causal_ranks AS (
    SELECT causal_key, (sum(count(*)) OVER (ORDER BY causal_key) - count(*)) / greatest(sum(count(*)) OVER () - 1, 1) AS share
    FROM long GROUP BY causal_key
),
pooled AS MATERIALIZED (
    SELECT
        item, place, avg(suspicion) OVER (
            PARTITION BY item ORDER BY place RANGE BETWEEN $window::INTEGER // 2 PRECEDING AND $window::INTEGER // 2 FOLLOWING
        ) AS suspicion
    FROM (
        SELECT long.item, long.place, ref_ranks.share - causal_ranks.share AS suspicion
        FROM long
        JOIN ref_ranks ON ref_ranks.ref_key = long.ref_key
        JOIN causal_ranks ON causal_ranks.causal_key = long.causal_key
    )
),
bins AS ( -- by suspicion, from the highest: how many tokens lie in bins above
    SELECT
        (1e6 * suspicion)::INTEGER AS bin, sum(count(*)) OVER (ORDER BY bin DESC) - count(*) AS num_above, count(*) AS num,
        ceil($share::DOUBLE * sum(count(*)) OVER ()) AS num_wanted
    FROM pooled
    GROUP BY bin
),
suspicious AS ( -- whole bins, and of the last one as many as there is room for
    SELECT pooled.item, pooled.place, pooled.suspicion
    FROM pooled
    JOIN bins ON bins.bin = (1e6 * pooled.suspicion)::INTEGER AND bins.num_above < bins.num_wanted
    QUALIFY bins.num_above + bins.num <= bins.num_wanted
        OR bins.num_above + row_number() OVER (PARTITION BY bins.bin ORDER BY pooled.suspicion DESC, pooled.item, pooled.place) <= bins.num_wanted
),
spans AS (
    SELECT item, min(place) AS first_place, max(place) AS last_place, count(*) AS num_tokens, avg(suspicion) AS suspicion
    FROM (SELECT *, place - row_number() OVER (PARTITION BY item ORDER BY place) AS span FROM suspicious) -- equal for neighbours
    GROUP BY item, span
    HAVING count(*) >= $min_tokens::BIGINT
    ORDER BY avg(suspicion) DESC, item, min(place)
    LIMIT $limit::BIGINT
)
SELECT
    record.hex_id(items.example_id) AS example_id, items.branch, items.source, min(tokens.position) AS first_position,
    max(tokens.position) AS last_position,
    tokens.num_tokens, tokens.suspicion, string_agg(vocabulary.token, '' ORDER BY tokens.position) AS text
FROM (
    SELECT
        spans.*, unnest(contents.response_positions[spans.first_place + 1:spans.last_place + 1]) AS position,
        unnest(record.tokens_at(contents.token_ids, contents.response_positions[spans.first_place + 1:spans.last_place + 1])) AS token_id
    FROM spans
    JOIN items ON items.item = spans.item
    JOIN record.sequences AS contents ON contents.sequence_id = items.sequence_id
) AS tokens
JOIN items ON items.item = tokens.item
LEFT JOIN record.vocabulary AS vocabulary
    ON vocabulary.token_id = tokens.token_id
    AND vocabulary.tokenizer_digest = (
        SELECT tokenizer_digest FROM record.tokenizations WHERE tokenization_id = (SELECT value FROM record.pointers WHERE name = 'tokenization')
    )
GROUP BY items.example_id, items.branch, items.source, tokens.first_place, tokens.num_tokens, tokens.suspicion
ORDER BY tokens.suspicion DESC, items.example_id, items.branch, first_position
