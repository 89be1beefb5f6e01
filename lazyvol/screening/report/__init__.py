"""Report of a screening: a self-contained HTML page."""

from lazyvol.screening.report.page import write_report
from lazyvol.screening.report.result import Flagging, Run, ScreenResult, resolution

__all__ = ["Flagging", "Run", "ScreenResult", "resolution", "write_report"]
