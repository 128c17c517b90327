"""Settings of the whole suite."""

from __future__ import annotations

import torch

# workers of pytest-xdist share the cores; more threads than cores make every test slower
torch.set_num_threads(1)
