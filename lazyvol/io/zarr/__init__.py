"""Zarr stores: metadata of v2 and v3, chunks read and verified, shards written."""
