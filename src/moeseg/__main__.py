"""`python -m moeseg`, for launchers such as torchrun; the command line itself is in `cli`."""

from moeseg.cli import main

main()
