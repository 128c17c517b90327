"""Models of other code: opened as models of moeseg, and written so that the other code opens them.

`original` is for checkpoints of the original system; `reading`, `keys` and `detect` serve it.
"""
