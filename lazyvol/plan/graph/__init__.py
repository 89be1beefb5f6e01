"""Dask graphs: recipes as dask arrays, and dask arrays read back as recipes."""
