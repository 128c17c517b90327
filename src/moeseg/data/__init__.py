"""Data sets: label sets, readers, named subsets, joint transforms, checks and prepared copies.

The procedural scenes lie in `moeseg.data.synthetic`.
"""

from moeseg.data.a2d2 import read_a2d2
from moeseg.data.camvid import read_camvid
from moeseg.data.catalogue import Catalogue, Pick, limit, overlaps, reselect
from moeseg.data.check import Finding, Report, check, near_neighbours, render
from moeseg.data.dataset import EpochBatches, SegmentationDataset, load
from moeseg.data.labels import (
    ClassCounts,
    LabelFormat,
    Weighting,
    class_weights,
    count_classes,
)
from moeseg.data.manifest import read_manifest
from moeseg.data.pictures import MissingFile, WrongSize, read_rgb, read_single, write_png
from moeseg.data.prepare import prepare, read_prepared
from moeseg.data.taxonomy import Taxonomy, UnknownLabels
from moeseg.data.transforms import (
    Augment,
    Fit,
    fit_image,
    fit_label,
    fitted_extent,
    resize_image,
    resize_label,
)

__all__ = [
    "Augment",
    "Catalogue",
    "ClassCounts",
    "EpochBatches",
    "Finding",
    "Fit",
    "LabelFormat",
    "MissingFile",
    "Pick",
    "Report",
    "SegmentationDataset",
    "Taxonomy",
    "UnknownLabels",
    "Weighting",
    "WrongSize",
    "check",
    "class_weights",
    "count_classes",
    "fit_image",
    "fit_label",
    "fitted_extent",
    "limit",
    "load",
    "near_neighbours",
    "overlaps",
    "prepare",
    "read_a2d2",
    "read_camvid",
    "read_manifest",
    "read_prepared",
    "read_rgb",
    "read_single",
    "render",
    "reselect",
    "resize_image",
    "resize_label",
    "write_png",
]
