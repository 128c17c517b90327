"""Saved models on single photos: class ids, coloured masks and overlays as PNG files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from moeseg.data import Fit, Taxonomy, fit_image, fitted_extent, read_rgb, write_png
from moeseg.data.transforms import unit_range
from moeseg.errors import CheckpointError, UsageError
from moeseg.evaluation.sheet import overlay
from moeseg.metrics import class_ids
from moeseg.models import Model, load, read_info, resize
from moeseg.types import Size


def predict_files(
    model_folder: Path,
    images: Sequence[Path],
    out: Path,
    *,
    size: Size | None = None,
    alpha: float = 0.5,
) -> Iterator[str]:
    """Predict photos and write `<name>_ids.png`, `<name>_mask.png`, `<name>_overlay.png` of each.

    Args:
        model_folder: a saved model; its taxonomy gives names and colours.
        images: photos of any size; masks have the photo's size.
        out: folder for the pictures, made if missing.
        size: (H, W) at which the model sees a photo; None is its training size.
        alpha: opacity of the overlay's mask, 0..1.

    Yields:
        One line of news for each photo.

    Raises:
        CheckpointError: no model there. UsageError: two photos of one name. DataError: a photo
            that cannot be read. All are raised before anything is written for that photo.
    """
    doubled = [stem for stem, count in Counter(image.stem for image in images).items() if count > 1]
    if doubled:
        raise UsageError(
            f"expected photos of different names, got {', '.join(doubled)} more than once: their "
            "masks would overwrite each other; predict them into separate folders with --out"
        )
    info = read_info(model_folder)
    taxonomy = model_taxonomy(model_folder)
    seen_at: Size = size or (int(info["size"][0]), int(info["size"][1]))
    fit: Fit = info.get("fit", "pad")
    model = load(model_folder)
    for path in images:
        photo = read_rgb(path, upright=True)
        ids = predict_ids(model, torch.from_numpy(photo).permute(2, 0, 1), seen_at, fit)
        mask = taxonomy.decode(ids.numpy())
        write_png(out / f"{path.stem}_ids.png", ids.numpy())
        write_png(out / f"{path.stem}_mask.png", mask)
        write_png(out / f"{path.stem}_overlay.png", overlay(photo, mask, alpha))
        counts = torch.bincount(ids.flatten(), minlength=len(taxonomy))
        shares = ", ".join(
            f"{taxonomy.classes[int(i)]} {100 * int(counts[i]) / ids.numel():.0f} %"
            for i in counts.argsort(descending=True)[:3]
        )
        yield f"{path}: {shares} -> {out / path.stem}_mask.png"


def model_taxonomy(folder: Path) -> Taxonomy:
    """Return the classes and colours that a model was saved with.

    Raises:
        CheckpointError: no model, or one saved without taxonomy and size.
    """
    info = read_info(folder)
    absent = [key for key in ("taxonomy", "size") if key not in info]
    if absent:
        raise CheckpointError(
            f"{folder}: expected a model saved with its taxonomy and size, got no "
            f"{' and no '.join(absent)}: save it with info={{'taxonomy': taxonomy.to_json(), "
            "'size': [H, W]}, or import it again with --taxonomy and --input-size"
        )
    return Taxonomy.from_json(info["taxonomy"], str(folder))


@torch.inference_mode()
def predict_ids(model: Model, photo: torch.Tensor, size: Size, fit: Fit) -> torch.Tensor:
    """Return the ids (H, W) uint8 of a photo (3, H, W) uint8 that the model sees at `size`."""
    full = int(photo.shape[1]), int(photo.shape[2])
    height, width = fitted_extent(full, size, fit)
    image = unit_range(fit_image(photo, size, fit))[None]  # (3, H, W) -> (1, 3, h, w)
    logits = model(image).logits[..., :height, :width]  # without the padding
    return class_ids(resize(logits, full))[0].to(torch.uint8)
