"""Layout of results for people; rows come in, text goes out."""
