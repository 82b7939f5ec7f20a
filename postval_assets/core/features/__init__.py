"""Feature sets (registry.py): what a policy sees of the bars; a module per family of the reference sets."""
