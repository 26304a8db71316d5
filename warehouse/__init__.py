"""DuckDB side of AlphaToken: schema, writes, policies, releases, streams. No torch, no Prefect."""
