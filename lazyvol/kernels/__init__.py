"""Pure functions on numpy arrays: no labels, no laziness, voxels and axes."""
