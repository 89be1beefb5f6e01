"""Sums, moments, order statistics and histograms along axes of a block."""
