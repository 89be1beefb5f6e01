"""Splines, rotations, translations, and solids by formula."""
