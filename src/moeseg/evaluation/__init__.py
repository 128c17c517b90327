"""From predictions to the table: collectors, intervals, rows, tables and the contact sheet.

Every number is first a row (`rows`), made by a collector (`collectors`) from counts per resampling
block (`intervals`); `table` and `sheet` only render. Counts and formulas are in `moeseg.metrics`.
"""
