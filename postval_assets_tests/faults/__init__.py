"""Many processes at once, and surroundings that fail: disks, clocks, permissions, damaged files."""
