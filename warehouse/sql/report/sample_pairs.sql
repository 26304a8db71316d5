-- Margin and weight of pairs. Grain: one row per example that is a pair. Parameters: $example_ids.
SELECT example_id, margin, weight FROM pairs WHERE list_contains($example_ids::VARCHAR[], example_id)
