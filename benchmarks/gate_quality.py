"""What sampled pixels and the cache cost in quality: val mIoU after equal epochs on the demo.

Needs the trained experts of `moeseg study configs/demo.yaml` and fits the study's mixtures three
ways with the same seeds. Takes about 5 minutes a seed on two cores.
"""

from __future__ import annotations

import contextlib
import csv
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from measure import figure, parse, parser, ratios, report
from moeseg.config import load_study
from moeseg.data.open import scenes_folder, synthetic_spec
from moeseg.data.synthetic import write_dataset
from moeseg.models import Expert, build_mixture, load
from moeseg.run import Run
from moeseg.training.cache import CachedOutputs, GateSource, LiveOutputs, build_cache
from moeseg.training.frames import gate_frames
from moeseg.training.gate import train_gates
from moeseg.training.network_stages import initial_network

WAYS: dict[str, tuple[bool, bool]] = {
    "cached, sampled": (True, True),
    "cached, all pixels": (True, False),
    "end to end, all pixels": (False, False),
}
"""Name -> whether from the cache, and whether on sampled pixels."""

SMOKE = (
    "data.size=[32, 48]",
    "data.synthetic.size=[32, 48]",
    "data.synthetic.frames_per_drive=1",
    "data.synthetic.drives={highway: {train: 1, val: 1}, urban: {train: 1, val: 1}}",
    "data.workers=0",
    "architecture.backbone=mobilenet_v2",
    "architecture.channels=8",
    "gate.epochs=1",
    "gate.pixels=16",
)


def main(argv: Sequence[str] | None = None) -> None:
    line = parser("gate_quality", __doc__)
    line.add_argument("--seeds", type=int, default=3, help="fits of each way (3)")
    line.add_argument("--run", type=Path, help="folder of the study's run; its own if left out")
    options = parse(line, argv)
    file = Path(__file__).resolve().parent.parent / "configs" / "demo.yaml"
    study = load_study(file, SMOKE if options.smoke else ())
    seeds = range(1 if options.smoke else options.seeds)
    with tempfile.TemporaryDirectory() as scratch:
        run = Run(study, Path(scratch) / "run" if options.smoke else options.run)
        if options.smoke:
            scenes = scenes_folder(study.data, run.folder)
            write_dataset(scenes, synthetic_spec(study.data), workers=1)
            experts = [initial_network(run, f"expert-{name}").eval() for name in study.experts]
        else:
            experts = [trained(run, name) for name in study.experts]
        val = cache(run, experts, Path(scratch) / "val", train=False)
        train = cache(run, experts, Path(scratch) / "train", train=True)
        logs = {
            way: [
                fit(run, experts, train, val, Path(scratch) / f"{number}-{seed}", way, seed)
                for seed in seeds
            ]
            for number, way in enumerate(WAYS)
        }
    first, *_, last = WAYS
    seconds = {way: [log["seconds"] for log in several] for way, several in logs.items()}
    figures = [figure(f"{way}: an epoch", several, "s") for way, several in seconds.items()]
    figures.append(
        figure("end to end over cached, sampled", ratios(seconds[last], seconds[first]), "x faster")
    )
    for name in study.mixtures:
        found = {way: [100 * log[name] for log in several] for way, several in logs.items()}
        figures += [figure(f"{name}, {way}: val mIoU", found[way], "%") for way in WAYS]
        apart = [a - b for a, b in zip(found[first], found[last], strict=True)]
        figures.append(figure(f"{name}, {first} minus {last}", apart, "points"))
    gate = study.gate
    report(
        "gate_quality",
        f"Validation mIoU of gates after {gate.epochs} epochs on the demo",
        options,
        {
            "study": f"configs/{file.name}",
            "size": list(study.data.size),
            "epochs": gate.epochs,
            "pixels": gate.pixels,
            "seeds": len(seeds),
            "frames": len(gate_frames(run)),
        },
        figures,
        [
            "All mixtures are fitted in one pass here, end to end too. A repetition is a seed: of "
            "the gates' first weights, the order of frames and the sampled pixels.",
            "End to end, frames get the study's whole augmentation; the cache knows only mirrors.",
        ],
    )


def trained(run: Run, name: str) -> Expert:
    """Return a trained expert of the run, frozen."""
    expert = load(run.model(f"expert-{name}"))
    assert isinstance(expert, Expert)
    return expert.eval().requires_grad_(False)


def cache(run: Run, experts: Sequence[Expert], folder: Path, *, train: bool) -> Path:
    """Cache the experts' outputs on the frames that gates are fitted or validated on."""
    frames = gate_frames(run) if train else run.validation_frames(run.study.joined)
    mirrored = train and run.study.data.augment.flip
    build_cache(
        experts,
        run.dataset(frames),
        folder,
        run.study.gate.cache,
        mirrored=mirrored,
        pixels=None,
        neighbours=False,
    )
    return folder


def fit(
    run: Run,
    experts: Sequence[Expert],
    train: Path,
    val: Path,
    out: Path,
    way: str,
    seed: int,
) -> dict[str, float]:
    """Fit all mixtures one way; return their last val mIoU by name, and seconds of an epoch."""
    from_cache, sampled = WAYS[way]
    gate = run.study.gate
    pixels: int | Literal["all"] = gate.pixels if sampled else "all"
    mixtures = {
        name: build_mixture(
            experts,
            one.gate,
            one.conv,
            one.pool,
            run.study.data.size,
            generator=torch.Generator().manual_seed(seed),
        )
        for name, one in run.study.mixtures.items()
    }
    source: GateSource
    if from_cache:
        source = CachedOutputs(train, gate.batch_size, seed)
    else:
        data = run.training_dataset(gate_frames(run), augmented=True)
        workers = run.study.data.workers
        source = LiveOutputs(experts, data, gate.batch_size, seed, workers=workers)
    with contextlib.redirect_stderr(io.StringIO()):  # its news
        train_gates(
            mixtures,
            source,
            CachedOutputs(val, gate.batch_size, training=False),
            gate.model_copy(update={"pixels": pixels, "choose": "last"}),
            out,
            seed=seed,
        )
    with (out / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    spent = sum(float(row["seconds"]) for row in rows) / len(rows)
    spent = max(spent, 0.005)  # the file knows only 10 ms
    print(f"  {way}, seed {seed}: {spent:.4g} s an epoch", flush=True)
    return {"seconds": spent} | {name: float(rows[-1][f"val/miou/{name}"]) for name in mixtures}


if __name__ == "__main__":
    main()
