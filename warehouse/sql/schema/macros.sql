-- Expressions that several views and queries have in common.
-- The digits of an identity that is stored as UUID.
CREATE MACRO record.hex_id(id) AS replace(id::VARCHAR, '-', '');

-- The tokens at ascending positions, counted from 0; a slice where they are neighbours, as those of a single response are.
CREATE MACRO record.tokens_at(token_ids, positions) AS CASE
    WHEN positions[-1] - positions[1] = len(positions) - 1 THEN token_ids[positions[1] + 1:positions[-1] + 1]
    ELSE list_transform(positions, lambda p: token_ids[p + 1])
END;

-- How many elements of a list are not NULL; to look for a NULL takes a third of the count, which most lists do not need.
CREATE MACRO record.num_values(list) AS CASE WHEN list_position(list, NULL) IS NULL THEN len(list) ELSE list_count(list) END;

-- Square root of the size, with the sign.
CREATE MACRO record.signed_root(value) AS sign(value) * sqrt(abs(value));

-- In which bin, from 0, a value lies between two bounds, given as their signed roots: bins are equal in the root, so that values near 0, which
-- are most, have several. What lies outside is in the first and last bin.
CREATE MACRO record.root_bin(value, low_root, high_root, num_bins) AS greatest(0, least(
    num_bins - 1, floor((record.signed_root(value) - low_root) / (high_root - low_root) * num_bins)
))::INTEGER;

-- An integer in the order of numbers of type FLOAT: sign, exponent and the first 12 bits behind the point, which those of the number's bits are.
-- To rank hundreds of millions of values, count per key instead of sorting: values that share a key differ by at most one part in 4,096, or are
-- all but 0.
CREATE MACRO record.rank_key(value) AS sign(value)::INTEGER * (abs(value)::BIT::INTEGER >> 11);
