"""The main job: screen a stack on disk within a memory budget, and write a report of the result."""
