"""Splines, rotations and translations, and solids by formula."""
