"""One study in several variants and seeds, and one table of what the variants change."""

from moeseg.ablation.variants import Ablation, load_ablation, run_ablation

__all__ = ["Ablation", "load_ablation", "run_ablation"]
