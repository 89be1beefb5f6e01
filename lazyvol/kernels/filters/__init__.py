"""Neighbourhood filters of blocks that carry a halo."""
