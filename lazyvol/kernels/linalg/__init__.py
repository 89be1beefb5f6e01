"""Small dense linear algebra: pairwise distances, covariances, eigenbases, trees, channels."""
