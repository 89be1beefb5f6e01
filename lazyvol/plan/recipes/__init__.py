"""Recipes: lazy arrays that can produce any region of themselves."""
