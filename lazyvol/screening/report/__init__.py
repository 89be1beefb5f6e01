"""Report of a screening: a self-contained, interactive HTML page."""

from lazyvol.screening.report.page import write_report

__all__ = ["write_report"]
