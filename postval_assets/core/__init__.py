"""The domain, pure: numpy, pandas and torch; no Dagster, DuckDB, network, clock or environment."""
