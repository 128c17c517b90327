"""Which frames teach whom: the networks, and the gates where they get frames of their own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch

from moeseg.errors import DataError
from moeseg.run import Run
from moeseg.types import Frame


def network_frames(run: Run, network: str) -> tuple[Frame, ...]:
    """Return the training frames of an expert or the baseline.

    With `gate.frames: heldout` the experts (not the baselines, which have no gate) go without the
    part that the gates are fitted on.
    """
    frames = run.frames(run.study.subset_of(network), "train")
    if run.study.gate.frames == "train" or not network.startswith("expert-"):
        return frames
    held = {frame.key for frame in gate_frames(run)}
    return tuple(frame for frame in frames if frame.key not in held)


def gate_frames(run: Run) -> tuple[Frame, ...]:
    """Return the frames that gates are fitted on."""
    gate = run.study.gate
    frames = run.frames(run.study.joined, "train")
    if gate.frames == "train":
        return frames
    held: list[Frame] = []
    for _, group in groupby(frames, key=lambda frame: frame.subset):
        held += split_held_out(list(group), gate.heldout, run.study.seed)[1]
    return tuple(held)


def split_held_out(
    frames: Sequence[Frame], share: float, seed: int
) -> tuple[list[Frame], list[Frame]]:
    """Split one subset's frames into those that experts see and those that they don't.

    Whole sequences are held out, since neighbouring frames of a drive are nearly equal; a subset of
    one sequence is cut in time, its last part held out.

    Args:
        frames: of one subset.
        share: the part to hold out, in (0, 1).
        seed: of the choice of sequences.

    Raises:
        DataError: one of the two parts would be empty.
    """
    sequences = sorted({frame.sequence for frame in frames})
    if len(sequences) > 1:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(sequences), generator=generator).tolist()
        count = min(max(1, round(share * len(sequences))), len(sequences) - 1)
        chosen = {sequences[place] for place in order[:count]}
        seen = [frame for frame in frames if frame.sequence not in chosen]
        held = [frame for frame in frames if frame.sequence in chosen]
    else:
        in_time = sorted(frames, key=lambda frame: frame.frame)
        cut = round((1 - share) * len(in_time))
        seen, held = in_time[:cut], in_time[cut:]
    if not seen or not held:
        raise DataError(
            f"gate.frames: heldout needs two or more training frames in each subset, got "
            f"{len(frames)} in {frames[0].subset if frames else '(an empty subset)'}"
        )
    return seen, held
