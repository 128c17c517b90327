"""End-to-end training of one network with Lightning: experts and the baseline.

The state of a run is its folder: `last.ckpt` after every epoch, `best.ckpt`, `metrics.csv`, and
TensorBoard events. Running it again goes on from `last.ckpt` and ends at the same weights.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    RichProgressBar,
)
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import DataLoader

from moeseg.config import TrainingConfig
from moeseg.data import EpochBatches, SegmentationDataset
from moeseg.errors import MoesegError, UsageError
from moeseg.files import log_epoch, replacing
from moeseg.metrics import ConfusionMatrix, class_ids, miou_over
from moeseg.models import Expert
from moeseg.progress import say
from moeseg.run import launched
from moeseg.training.adversarial import Adversary, Perturb, adversary
from moeseg.training.loss import cross_entropy, make_optimizer, rate

_TALKERS = ("lightning.pytorch", "lightning.fabric")
_LOGGED = ("train/loss", "val/loss", "val/miou")
Batch = tuple[Tensor, Tensor, Sequence[str]]


class ExpertTraining(L.LightningModule):
    """One network, its loss and its optimizer, as Lightning wants them."""

    def __init__(
        self,
        expert: Expert,
        config: TrainingConfig,
        *,
        steps: int,
        seed: int,
        class_weights: Tensor | None = None,
        adversary: Adversary | None = None,
    ) -> None:
        super().__init__()
        self.expert = expert
        self.config = config
        self.steps = steps
        self.seed = seed
        self.adversary = adversary
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.confusion = ConfusionMatrix(expert.num_classes)

    def on_train_epoch_start(self) -> None:
        """Seed dropout from the epoch, so that a resumed run draws as an unbroken one."""
        torch.manual_seed(self.seed * 100_003 + self.current_epoch)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the loss of one batch: images (B, 3, H, W), labels (B, H, W), keys.

        With an adversary, of the batch as it changes it against the network in eval mode; the step
        itself is taken in training mode.
        """
        images, label, keys = batch
        if self.adversary is not None:
            images = self.adversary.change(self.expert, images, label, keys, self.current_epoch)
        weights = self.class_weights if isinstance(self.class_weights, Tensor) else None
        loss = cross_entropy(self.expert(images).logits, label, weights)
        if not torch.isfinite(loss):
            raise MoesegError(
                f"the loss became {loss.item()} in epoch {self.current_epoch}, step "
                f"{self.global_step}, on frames {', '.join(keys[:4])}: lower "
                f"training.optimizer.lr (now {self.config.optimizer.lr:g}), add warmup, or train "
                "with precision 32-true"
            )
        self.log(
            "train/loss",
            loss,
            on_step=False,
            on_epoch=True,
            batch_size=len(images),
            sync_dist=True,
        )
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        """Count one batch into loss and confusion matrix."""
        images, label, keys = batch
        logits = self.expert(images).logits
        self.confusion.update(class_ids(logits, what=f"the logits on {list(keys)}"), label)
        self.log("val/loss", cross_entropy(logits, label), batch_size=len(images), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Log the validation mIoU."""
        miou = miou_over(self.confusion.compute(), self.config.miou_classes)
        self.log("val/miou", miou, sync_dist=True)  # equal on all ranks
        self.confusion.reset()

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's own union of forms
        """Return optimizer and the learning-rate course, stepped every batch."""
        optimizer = make_optimizer(self.expert.parameters(), self.config.optimizer)
        course = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate(self.config.optimizer, step, self.steps)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": course, "interval": "step", "name": "lr"},
        }


def train_expert(
    expert: Expert,
    train: SegmentationDataset,
    val: SegmentationDataset | None,
    config: TrainingConfig,
    out: Path,
    *,
    seed: int = 0,
    workers: int = 0,
    shuffle: bool = True,
    class_weights: Tensor | None = None,
    perturb: Perturb | None = None,
) -> Expert:
    """Train a network end to end, or go on where an earlier call in the same folder stopped.

    Args:
        expert: the network; its weights are where training starts.
        train: frames to learn from.
        val: frames for model choice and early stopping; None where there are none.
        config: see `TrainingConfig`.
        out: folder for checkpoints and logs.
        seed: of shuffling, augmentation and dropout.
        workers: loader processes.
        shuffle: False shows frames in their own order every epoch.
        class_weights: (C,) for the loss.
        perturb: the attack of `config.adversarial`; not used where that is null.

    Returns:
        The network with the weights of the chosen epoch, in eval mode on the CPU.

    Raises:
        MoesegError: the loss is not finite.
        UsageError: too few validation frames for the settings, no such device, or no attack where
            one is asked for.
    """
    check_choice(config, 0 if val is None else len(val))
    world = config.devices * config.num_nodes
    batches = EpochBatches(len(train), config.batch_size, seed, world=world)
    module = ExpertTraining(
        expert,
        config,
        steps=len(batches) * config.epochs,
        seed=seed,
        class_weights=class_weights,
        adversary=adversary(config.adversarial, perturb, "training.adversarial", seed=seed),
    )
    feed = _Feed(train, val, config, seed, workers, shuffle)
    out.mkdir(parents=True, exist_ok=True)
    last = out / "last.ckpt"
    with _quiet():
        try:
            trainer = _trainer(config, out, validated=val is not None)
        except MisconfigurationException as error:
            raise UsageError(
                f"training.accelerator: {config.accelerator} with training.devices: "
                f"{config.devices} is not to be had on this machine: {error}"
            ) from error
        trainer.fit(module, datamodule=feed, ckpt_path=str(last) if last.exists() else None)
    chosen = torch.load(out / f"{config.choose}.ckpt", map_location="cpu", weights_only=True)
    prefix = "expert."
    expert.load_state_dict(
        {k.removeprefix(prefix): v for k, v in chosen["state_dict"].items() if k.startswith(prefix)}
    )
    return expert.cpu().eval()


def check_choice(config: TrainingConfig, val: int) -> None:
    """Make sure that there are as many validation frames as the settings need.

    Raises:
        UsageError: there are not.
    """
    if not val and (config.choose == "best" or config.early_stopping):
        raise UsageError(
            "training.choose: best and early_stopping need validation frames, and this subset has "
            "none: set training.choose: last and early_stopping: null"
        )
    if 0 < val < config.devices * config.num_nodes:
        raise UsageError(
            f"validation needs a frame for each of {config.devices * config.num_nodes} processes, "
            f"got {val}: lower training.devices, or add validation frames"
        )


def resolve_precision(precision: str, accelerator: str = "auto") -> str:
    """Return Lightning's name for a study's precision; `auto` asks the processor."""
    if precision != "auto":
        return precision
    if accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if native else "32-true"


class _Feed(L.LightningDataModule):
    """Loaders made inside each process, where rank and epoch are known."""

    def __init__(
        self,
        train: SegmentationDataset,
        val: SegmentationDataset | None,
        config: TrainingConfig,
        seed: int,
        workers: int,
        shuffle: bool,
    ) -> None:
        super().__init__()
        self.shuffle = shuffle
        self.frames = train
        self.val_frames = val
        self.config = config
        self.seed = seed
        self.workers = workers

    def train_dataloader(self) -> DataLoader[Any]:
        """Return this epoch's batches; the trainer asks anew every epoch."""
        assert self.trainer is not None
        batches = EpochBatches(
            len(self.frames),
            self.config.batch_size,
            self.seed,
            self.shuffle,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
        )
        batches.set_epoch(self.trainer.current_epoch)
        return DataLoader(
            self.frames,
            batch_sampler=batches,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return this rank's share of the validation frames."""
        assert self.trainer is not None
        if self.val_frames is None:
            return []
        mine = range(self.trainer.global_rank, len(self.val_frames), self.trainer.world_size)
        return DataLoader(
            self.val_frames,
            batch_size=self.config.batch_size,
            sampler=list(mine),
            num_workers=self.workers,
        )


class _AtomicCheckpoints(TorchCheckpointIO):
    """Lightning's own format, renamed into place, so that a kill never leaves half a file."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: Any | None = None,  # noqa: ANN401 - the base class's signature
    ) -> None:
        with replacing(Path(path)) as unfinished:
            super().save_checkpoint(checkpoint, unfinished, storage_options)


class _CleanDDP(DDPStrategy):
    """DDP whose process group is closed at the end of the run."""

    def setup_environment(self) -> None:
        _hush()  # a spawned process starts with its own filters
        super().setup_environment()

    def teardown(self) -> None:
        super().teardown()
        # launched ranks keep theirs for the next network: the study closes it
        if not launched() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


class _EarlyStopping(EarlyStopping):
    """Stays stopped: a run resumed after its last epoch must not train another."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class _EpochLog(Callback):
    """One row an epoch in `metrics.csv`, kept over resumes, and a line where no bar is shown."""

    def __init__(self, path: Path, *, lines: bool) -> None:
        self.path = path
        self.lines = lines
        self.began = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        seconds, self.began = time.monotonic() - self.began, time.monotonic()
        every = trainer.check_val_every_n_epoch or 1
        fresh = (trainer.current_epoch + 1) % every == 0  # else the last validation's values stand
        values = {
            k: float(trainer.callback_metrics.get(k, math.nan))
            if fresh or "val" not in k
            else math.nan
            for k in _LOGGED
        }
        log_epoch(
            self.path, {"epoch": trainer.current_epoch, "seconds": round(seconds, 2)} | values
        )
        if self.lines:
            text = "  ".join(f"{k} {v:.4f}" for k, v in values.items() if not math.isnan(v))
            say(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {text}  {seconds:.0f} s")


def _trainer(config: TrainingConfig, out: Path, *, validated: bool) -> L.Trainer:
    every: dict[str, Any] = {
        "dirpath": out,
        "enable_version_counter": False,
        "save_on_train_epoch_end": True,
    }
    callbacks: list[Callback] = []
    if config.early_stopping:
        callbacks.append(_EarlyStopping("val/loss", patience=config.early_stopping))
    if validated:
        callbacks.append(ModelCheckpoint(filename="best", monitor="val/miou", mode="max", **every))
    # after the best one, so that a run resumed from it knows which epoch was the best
    callbacks.append(ModelCheckpoint(filename="last", **every))
    interactive = sys.stderr.isatty()
    callbacks.append(_EpochLog(out / "metrics.csv", lines=not interactive))
    if interactive:
        callbacks.append(RichProgressBar())
    return L.Trainer(
        max_epochs=config.epochs,
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=_strategy(config),
        precision=resolve_precision(config.precision, config.accelerator),  # type: ignore[arg-type]
        callbacks=callbacks,
        logger=TensorBoardLogger(out.parent, out.name, version=""),
        plugins=[_AtomicCheckpoints()],
        check_val_every_n_epoch=min(config.val_every, config.epochs),
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=50,
        enable_progress_bar=interactive,
        enable_model_summary=False,
    )


def _strategy(config: TrainingConfig) -> Any:  # noqa: ANN401 - a name or a strategy object
    if config.devices * config.num_nodes == 1:
        return "auto"
    return _CleanDDP() if launched() else _CleanDDP(start_method="spawn")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's advice, which is for authors of scripts, from the users of this command."""
    levels = {name: logging.getLogger(name).level for name in _TALKERS}
    try:
        with warnings.catch_warnings():
            _hush()
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _hush() -> None:
    for name in _TALKERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    for category in (UserWarning, FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category, module="lightning")
