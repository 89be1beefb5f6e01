"""Likelihoods and p-values of hypotheses about particles, in Fourier space."""
