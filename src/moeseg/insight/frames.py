"""One line a frame: where its experts disagree, what its gate did, how good everyone was on it.

`FrameCollector` streams the lines to a CSV as frames come, so memory does not grow with them, and
ranks them at the end: the frames to look at, or to label next, come first. Nothing is drawn here.
"""

from __future__ import annotations

import csv
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, zip_longest
from pathlib import Path
from typing import TextIO

import torch
import torch.distributed as dist
from torch import Tensor

from moeseg.errors import DataError, MoesegError
from moeseg.evaluation.collectors import several_ranks
from moeseg.files import replacing
from moeseg.insight.agreement import agreement_mask, category_counts, disagreement
from moeseg.insight.detectors import softmax_scores
from moeseg.insight.routing import expert_confusions, frame_mious, leaders, routing_entropy
from moeseg.metrics import confusion_per_image
from moeseg.types import Frame, Prediction, Row

_RANKED = ("disagreement", "gate_uncertainty")


def ranked_scores(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the scores that frames are ranked by: of all, then of each class."""
    return (*_RANKED, *(f"disagreement_{name}" for name in classes))


def contested(ids: Tensor, expert_ids: Tensor, num_classes: int) -> Tensor:
    """Return for each class the share of pixels on which mixture and experts are split over it.

    A pixel counts for a class that some of them, but not all, give it: a pedestrian that one expert
    sees counts though the mixture overlooks it.

    Args:
        ids: (H, W) integer classes of the mixture.
        expert_ids: (E, H, W) integer classes of its experts.
        num_classes: C.

    Returns:
        (C,) float64 in 0..1.
    """
    everyone = torch.cat([ids[None], expert_ids]).flatten(1)  # (1 + E, H * W)
    split = (everyone != everyone[0]).any(dim=0)  # (H * W,)
    voices = everyone[:, split]  # (1 + E, N)
    counts = torch.zeros(num_classes, dtype=torch.int64, device=ids.device)
    for number, own in enumerate(voices):
        fresh = (voices[:number] != own).all(dim=0)  # each class of a pixel once
        counts += torch.bincount(own[fresh], minlength=num_classes)
    return counts.double() / ids.numel()


def frame_columns(experts: Sequence[str], classes: Sequence[str], *, labelled: bool) -> list[str]:
    """Return the heads of `frames.csv`, those of the original's counts first.

    Args:
        experts: E names in the mixture's order.
        classes: C class names, in id order.
        labelled: whether there are labels to score frames by.
    """
    followed = [
        "_and_".join(str(e + 1) for e in range(len(experts)) if mask >> e & 1)
        for mask in range(1, 2 ** len(experts) - 1)
    ]
    return [
        "id_id",
        "perfect_case",
        *(f"moe_agrees_with_expert_{which}" for which in followed),
        "critical_case",
        "key",
        "sequence",
        "frame",
        *(("subset", "image", "label") if labelled else ("image",)),
        "disagreement",
        *(f"disagreement_{name}" for name in classes),
        "entropy",
        "gate_uncertainty",
        *(f"weight_{name}" for name in experts),
        *(("miou", *(f"miou_{name}" for name in experts)) if labelled else ()),
        "preferred",
        *(("better",) if labelled else ()),
        *(f"rank_{score}" for score in ranked_scores(classes)),
    ]


class FrameCollector:
    """A CSV with one line for each frame; gives no rows.

    Pixel counts of the agreement categories (`id_id` is the frame's place, counted from 0), then
    `disagreement`: mean over pixels of the share of experts that differ from the mixture;
    `disagreement_<class>`: see `contested`; `entropy`: mean over pixels of the mixture's predictive
    entropy / ln C; `gate_uncertainty`: mean over columns of the normalised routing entropy;
    `weight_<expert>`: mean over columns; `miou...`: over the classes in the frame's ground truth;
    `preferred` and `better`: the expert with the largest weight and the best mIoU, empty in a tie;
    `rank_...`: 1 is the frame with the highest score. What a model without gate or a frame without
    labels lacks is left empty. The file appears when all frames are counted; a run that fails
    leaves what was there before.

    Args:
        model: its name in the table.
        experts: E names in the model's order, without the prefix ``expert-``.
        classes: C class names, in id order.
        frames: all frames under evaluation, in the order they are predicted in.
        path: the CSV; its folder is made if missing.
        labelled: False leaves out columns that need labels.
    """

    def __init__(
        self,
        model: str,
        experts: Sequence[str],
        classes: Sequence[str],
        frames: Sequence[Frame],
        path: Path,
        *,
        labelled: bool = True,
    ) -> None:
        self.needs_experts = True
        self.model = model
        self.experts = tuple(experts)
        self.classes = tuple(classes)
        self.frames = {frame.key: frame for frame in frames}
        self.path = path
        self.labelled = labelled
        self.columns = frame_columns(self.experts, self.classes, labelled=labelled)
        self._lines: TextIO | None = None
        self._synced = False

    def update(self, prediction: Prediction, label: Tensor, keys: Sequence[str]) -> None:
        """Write the lines of a batch: ids, expert_ids, weights (or none), label (B, H, W), B keys.

        Raises:
            DataError: a key is not under evaluation, or ids or sizes do not fit.
            MoesegError: the disk does not take it.
        """
        if self._synced:
            raise RuntimeError("update after sync: the file is already written")
        unknown = [key for key in keys if key not in self.frames]
        if unknown:
            raise DataError(f"{self.model}: expected frames under evaluation, got {unknown}.")
        lines = [
            self._line(_single(prediction, number), label[number : number + 1], key)
            for number, key in enumerate(keys)
        ]
        with _writing(self.path):
            if self._lines is None:
                self._lines = self._open()
            csv.writer(self._lines, lineterminator="\n").writerows(lines)

    def sync(self) -> None:
        """Join what all ranks wrote, rank the frames and put the file in its place, once."""
        if self._synced:
            return
        self._synced = True
        rank, world = (dist.get_rank(), dist.get_world_size()) if several_ranks() else (0, 1)
        with _writing(self.path):
            (self._lines or self._open()).close()
        if world > 1:
            dist.barrier()
        if rank == 0:
            with _writing(self.path):
                _join([self._part(other) for other in range(world)], self.path, self.columns)
        if world > 1:
            dist.barrier()
        self._part(rank).unlink(missing_ok=True)

    def reset(self) -> None:
        """Forget all lines."""
        self.discard()
        self._lines = None

    def discard(self) -> None:
        """Remove what a run that failed has written so far; nothing happens after `sync`."""
        if self._lines is not None and not self._synced:
            _discard(self._lines, self._part(dist.get_rank() if several_ranks() else 0))

    def rows(self) -> list[Row]:
        """Return nothing: the result is the file."""
        return []

    def _part(self, rank: int) -> Path:
        return self.path.with_name(f".{self.path.name}.{rank}.lines")

    def _open(self) -> TextIO:
        part = self._part(dist.get_rank() if several_ranks() else 0)
        part.parent.mkdir(parents=True, exist_ok=True)
        file = part.open("w", newline="", encoding="utf-8")
        weakref.finalize(self, _discard, file, part)  # also if another collector fails
        return file

    def _line(self, one: Prediction, label: Tensor, key: str) -> list[object]:
        """Return what the parts hold of a frame: all columns but place and ranks."""
        ids, expert_ids = one.ids, one.expert_ids
        if ids is None or expert_ids is None:
            raise RuntimeError(f"{self.model}: the prediction carries no classes")
        label = label.to(ids.device)
        rows, columns = one.inside(0)
        ids, expert_ids, logits, label = (
            maps[..., rows, columns] for maps in (ids, expert_ids, one.logits, label)
        )
        experts, classes = len(self.experts), len(self.classes)
        mask = agreement_mask(ids, expert_ids)  # (1, H, W)
        cases = category_counts(mask, experts)[0].tolist()  # 2**E
        weights = torch.full((1, experts, 1), torch.nan) if one.weights is None else one.weights
        mean = weights.double().mean(dim=2).cpu()  # (1, E, K) -> (1, E)
        found: list[object] = [cases[-1], *cases[1:-1], cases[0]]
        frame = self.frames[key]
        found += [key, frame.sequence, frame.frame]
        if self.labelled:
            found += [frame.subset, frame.image.as_posix()]
            found.append("" if frame.label is None else frame.label.as_posix())
        else:
            found.append(frame.image.as_posix())
        shares = [
            disagreement(mask, experts).double().mean()[None],
            contested(ids[0], expert_ids[0], classes),
            softmax_scores(logits[0])[1].double().mean()[None],
            routing_entropy(weights).mean()[None],
            mean[0],
        ]
        found += [_number(value) for share in shares for value in share.tolist()]
        preferred, better = _sole(mean, self.experts), None
        if self.labelled:
            own = frame_mious(confusion_per_image(ids, label, classes)[:, None])  # (1, 1)
            each = frame_mious(expert_confusions(expert_ids, label, classes))  # (1, E)
            found += [_number(value) for value in (*own[0].tolist(), *each[0].tolist())]
            better = _sole(each, self.experts)
        found.append(preferred)
        return found if better is None else [*found, better]


def read_frames(path: Path) -> Iterator[dict[str, str]]:
    """Yield the lines of a `frames.csv` by column, in its order.

    Raises:
        DataError: no such file, or not one of these.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.DictReader(file)
            if not {"key", *(f"rank_{score}" for score in _RANKED)} <= {*(lines.fieldnames or ())}:
                raise DataError(
                    f"{path}: expected the frames of a mixture (columns key, rank_disagreement "
                    "...), got another file; name one that `moeseg insight` or a study wrote."
                )
            yield from lines
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected the frames of a mixture, got {error}.") from error


def _single(prediction: Prediction, number: int) -> Prediction:
    """Return one image of a batch, as a batch of one."""
    chosen = slice(number, number + 1)
    weights, ids, each = prediction.weights, prediction.ids, prediction.expert_ids
    return Prediction(
        prediction.logits[chosen],
        None if weights is None else weights[chosen],
        ids=None if ids is None else ids[chosen],
        expert_ids=None if each is None else each[chosen],
        extents=None if prediction.extents is None else prediction.extents[chosen],
    )


def _sole(values: Tensor, names: Sequence[str]) -> str:
    """Return who has the greatest of the values (1, E); nothing in a tie."""
    shares = leaders(values)[0].tolist()
    return names[shares.index(1.0)] if 1.0 in shares else ""


def _number(value: float) -> str:
    return "" if value != value else f"{value:.6g}"


def _join(parts: Sequence[Path], path: Path, columns: Sequence[str]) -> None:
    """Write the ranks' lines in the frames' order, with their places and ranks.

    Rank r predicted the frames r, r + world, ...: taking a line of each in turn restores the order.
    """
    ranked = [name.removeprefix("rank_") for name in columns if name.startswith("rank_")]
    found = columns[1 : -len(ranked)]
    scores: dict[str, list[float | None]] = {name: [] for name in ranked}
    for line in _in_turn(parts):
        for name, values in scores.items():
            text = line[found.index(name)]
            values.append(float(text) if text else None)
    ranks = [_ranks(values) for values in scores.values()]
    with replacing(path) as whole, whole.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for place, line in enumerate(_in_turn(parts)):
            writer.writerow([place, *line, *(of_score[place] for of_score in ranks)])


def _in_turn(parts: Sequence[Path]) -> Iterator[list[str]]:
    with ExitStack() as stack:
        files = [stack.enter_context(part.open(newline="", encoding="utf-8")) for part in parts]
        turns: Iterable[tuple[list[str] | None, ...]] = zip_longest(*map(csv.reader, files))
        yield from (line for line in chain.from_iterable(turns) if line is not None)


def _ranks(scores: Sequence[float | None]) -> Mapping[int, int | str]:
    """Return the rank of each place, 1 for the highest score; empty without one."""
    known = [(-score, place) for place, score in enumerate(scores) if score is not None]
    ranked: dict[int, int | str] = dict.fromkeys(range(len(scores)), "")
    return ranked | {place: rank for rank, (_, place) in enumerate(sorted(known), start=1)}


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MoesegError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder"
        ) from error


def _discard(file: TextIO, part: Path) -> None:
    file.close()
    part.unlink(missing_ok=True)
