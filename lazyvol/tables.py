"""Text files of results; they live with the other formats."""

from lazyvol.io.tables import csv_text, write_text

__all__ = ["csv_text", "write_text"]
