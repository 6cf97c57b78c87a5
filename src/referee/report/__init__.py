"""The report: one self-contained HTML file that says how a phase went.

| module | noun |
|---|---|
| `data` | what the report tells, as plain frozen facts that follow from the ledger's rows (pure) |
| `bill` | what the attempts cost, by machine type, and for whose faults |
| `pictures` | the pictures, as SVG |
| `page` | the page |
"""

from referee.report.data import ReportData, report_data
from referee.report.page import render_report

__all__ = ["ReportData", "render_report", "report_data"]
