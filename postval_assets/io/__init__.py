"""The edges of the outside world, one adapter a file: disk, DuckDB, sources of bars."""
