"""Dagster's words only: partitions, resources, assets, checks, jobs and sensors; an asset's body calls its stage."""
