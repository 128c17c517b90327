"""The report: one HTML file made from a run's rows and layers, and from nothing else."""

from moeseg.report.page import render, write_report

__all__ = ["render", "write_report"]
