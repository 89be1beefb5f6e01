"""Read zarr v2 and v3 stores, and write sharded OME-Zarr stores with checksums."""
