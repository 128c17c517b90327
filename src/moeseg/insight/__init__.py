"""What the experts know: where they agree, what a gate makes of them, which frames to look at.

Each part is a collector beside the pure functions that it counts with; all give rows, some give
files. Nothing is rendered here: pages and plots are `moeseg.report`.
"""
