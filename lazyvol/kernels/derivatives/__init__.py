"""Derivatives of blocks, and the eigenvalues and measures computed from them."""
