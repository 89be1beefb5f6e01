"""Folds: how a reduction is cut into tasks, streamed within a task, and merged in a tree."""
