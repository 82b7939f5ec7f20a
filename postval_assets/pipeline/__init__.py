"""One plain function for each asset: reads through io, computes with core, writes its own table.

Runs without Dagster. Here: the order of steps and what a row holds. Not here: rules (core), adapters (io), or
Dagster's words (defs).
"""
