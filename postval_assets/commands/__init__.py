"""What the postval command does, behind its thin surface: a data directory's home, runs, servers, demo, doctor."""
