"""The 55 label colours of A2D2 (facts of the data set) and their grouping into classes.

Here: colour -> name as in Audi's ``class_list.json``, and class -> its instance colours. Not here:
class ids; those belong to the taxonomy of the reader.
"""

from __future__ import annotations

import re
from typing import Final

CLASS_LIST: Final[dict[str, str]] = {
    "#ff0000": "Car 1",
    "#c80000": "Car 2",
    "#960000": "Car 3",
    "#800000": "Car 4",
    "#b65906": "Bicycle 1",
    "#963204": "Bicycle 2",
    "#5a1e01": "Bicycle 3",
    "#5a1e1e": "Bicycle 4",
    "#cc99ff": "Pedestrian 1",
    "#bd499b": "Pedestrian 2",
    "#ef59bf": "Pedestrian 3",
    "#ff8000": "Truck 1",
    "#c88000": "Truck 2",
    "#968000": "Truck 3",
    "#00ff00": "Small vehicles 1",
    "#00c800": "Small vehicles 2",
    "#009600": "Small vehicles 3",
    "#0080ff": "Traffic signal 1",
    "#1e1c9e": "Traffic signal 2",
    "#3c1c64": "Traffic signal 3",
    "#00ffff": "Traffic sign 1",
    "#1edcdc": "Traffic sign 2",
    "#3c9dc7": "Traffic sign 3",
    "#ffff00": "Utility vehicle 1",
    "#ffffc8": "Utility vehicle 2",
    "#e96400": "Sidebars",
    "#6e6e00": "Speed bumper",
    "#808000": "Curbstone",
    "#ffc125": "Solid line",
    "#400040": "Irrelevant signs",
    "#b97a57": "Road blocks",
    "#000064": "Tractor",
    "#8b636c": "Non-drivable street",
    "#d23273": "Zebra crossing",
    "#ff0080": "Obstacles / trash",
    "#fff68f": "Poles",
    "#960096": "RD restricted area",
    "#ccff99": "Animals",
    "#eea2ad": "Grid structure",
    "#212cb1": "Signal corpus",
    "#b432b4": "Drivable cobblestone",
    "#ff46b9": "Electronic traffic",
    "#eee9bf": "Slow drive area",
    "#93fdc2": "Nature object",
    "#9696c8": "Parking area",
    "#b496c8": "Sidewalk",
    "#48d1cc": "Ego car",
    "#c87dd2": "Painted driv. instr.",
    "#9f79ee": "Traffic guide obj.",
    "#8000ff": "Dashed line",
    "#ff00ff": "RD normal street",
    "#87ceff": "Sky",
    "#f1e6ff": "Buildings",
    "#60458f": "Blurred area",
    "#352e52": "Rain dirt",
}
"""``#rrggbb`` -> name, instance number included, in the order of the published file."""


def _group_by_class() -> dict[str, tuple[tuple[int, int, int], ...]]:
    colours: dict[str, list[tuple[int, int, int]]] = {}
    for code, name in CLASS_LIST.items():
        red, green, blue = bytes.fromhex(code[1:])
        colours.setdefault(re.sub(r" \d$", "", name), []).append((red, green, blue))
    return {name: tuple(values) for name, values in colours.items()}


CLASS_COLOURS: Final = _group_by_class()
"""Class name without number -> RGB (0..255) of its first, second ... instance."""

CLASS_NAMES: Final = tuple(CLASS_COLOURS)
"""The 38 class names; faces and ground zones refer to them by position."""

CLASS_INDEX: Final = {name: index for index, name in enumerate(CLASS_NAMES)}
"""Class name -> position in `CLASS_NAMES`."""
