"""Folds: how a reduction is split into tasks, streamed within a task, and merged in a tree."""
