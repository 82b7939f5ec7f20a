"""Processes killed at any instant, and full disks: what they leave is what an undisturbed run leaves, in the end."""
