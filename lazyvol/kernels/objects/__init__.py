"""Objects of label volumes: their numbers, statistics, and shapes."""
