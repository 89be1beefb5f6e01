"""Dask graphs: recipes as arrays, and arrays read as recipes again."""
