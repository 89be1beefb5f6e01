"""Reports that someone would show a colleague: self-contained HTML pages."""

from lazyvol.screening.report.page import write_report
from lazyvol.screening.report.result import Flagging, Run, ScreenResult, resolution

__all__ = ["Flagging", "Run", "ScreenResult", "resolution", "write_report"]
