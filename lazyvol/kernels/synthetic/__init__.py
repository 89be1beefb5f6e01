"""Values from formulas and random numbers that are keyed by position."""
