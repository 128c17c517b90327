"""Facts of the built-in label sets: class names in id order, their colours, what is ignored.

Tables only; what they mean and how they are used is `taxonomy.py`.
"""

from __future__ import annotations

Palette = tuple[tuple[tuple[str, str], ...], str]
"""((class name, its colours as hex words; the first decodes), ...), ignored colours."""

# Audi's class_list.json; numbered instances of one class ("Car 1" ... "Car 4") are one class.
_A2D2_38 = (
    ("Car", "ff0000 c80000 960000 800000"),
    ("Bicycle", "b65906 963204 5a1e01 5a1e1e"),
    ("Pedestrian", "cc99ff bd499b ef59bf"),
    ("Truck", "ff8000 c88000 968000"),
    ("Small vehicles", "00ff00 00c800 009600"),
    ("Traffic signal", "0080ff 1e1c9e 3c1c64"),
    ("Traffic sign", "00ffff 1edcdc 3c9dc7"),
    ("Utility vehicle", "ffff00 ffffc8"),
    ("Sidebars", "e96400"),
    ("Speed bumper", "6e6e00"),
    ("Curbstone", "808000"),
    ("Solid line", "ffc125"),
    ("Irrelevant signs", "400040"),
    ("Road blocks", "b97a57"),
    ("Tractor", "000064"),
    ("Non-drivable street", "8b636c"),
    ("Zebra crossing", "d23273"),
    ("Obstacles / trash", "ff0080"),
    ("Poles", "fff68f"),
    ("RD restricted area", "960096"),
    ("Animals", "ccff99"),
    ("Grid structure", "eea2ad"),
    ("Signal corpus", "212cb1"),
    ("Drivable cobblestone", "b432b4"),
    ("Electronic traffic", "ff46b9"),
    ("Slow drive area", "eee9bf"),
    ("Nature object", "93fdc2"),
    ("Parking area", "9696c8"),
    ("Sidewalk", "b496c8"),
    ("Ego car", "48d1cc"),
    ("Painted driv. instr.", "c87dd2"),
    ("Traffic guide obj.", "9f79ee"),
    ("Dashed line", "8000ff"),
    ("RD normal street", "ff00ff"),
    ("Sky", "87ceff"),
    ("Buildings", "f1e6ff"),
    ("Blurred area", "60458f"),
    ("Rain dirt", "352e52"),
)

A2D2_38_TO_11: tuple[int, ...] = (
    *(1, 0, 0, 2, 1, 6, 6, 2, 6, 6, 4, 10, 5, 5, 2, 4, 6, 5, 5, 4),
    *(0, 5, 5, 3, 6, 4, 9, 3, 4, 1, 6, 6, 10, 3, 7, 8, -1, -1),
)
"""By 38-id: the 11-id, or -1 for ignored (papers 1 and 2)."""

# The 11 classes, and of which of the 38 each takes the colour it is shown in.
_A2D2_11 = (
    ("Person", "Pedestrian"),
    ("Car", "Car"),
    ("Truck", "Truck"),
    ("Drivable", "RD normal street"),
    ("Nondrivable", "Sidewalk"),
    ("Blocker", "Obstacles / trash"),
    ("Info", "Traffic sign"),
    ("Sky", "Sky"),
    ("Buildings", "Buildings"),
    ("Nature", "Nature object"),
    ("Lanes", "Solid line"),
)

# The 32 colours of CamVid (Brostow et al., 2009) in their usual 11 groups, the group's namesake
# first; the second colour of Pavement is SegNet's rendering of it.
_CAMVID_11 = (
    ("Sky", "808080"),
    ("Building", "800000 c00080 008040 400040 40c000"),
    ("Pole", "c0c080 000040"),
    ("Road", "804080 8000c0 c00040"),
    ("Pavement", "0000c0 3c28de 40c080 8080c0"),
    ("Tree", "808000 c0c000"),
    ("SignSymbol", "c08080 808040 004040"),
    ("Fence", "404080"),
    ("Car", "400080 4080c0 c04080 c080c0 804040"),
    ("Pedestrian", "404000 c08040 4000c0 408040"),
    ("Bicyclist", "0080c0 c000c0"),
)

# By train id. The void classes polegroup and license plate wear the colours of pole and car, so
# colours alone can't tell them apart; trainId pictures can.
_CITYSCAPES_19 = (
    ("road", "804080"),
    ("sidewalk", "f423e8"),
    ("building", "464646"),
    ("wall", "66669c"),
    ("fence", "be9999"),
    ("pole", "999999"),
    ("traffic light", "faaa1e"),
    ("traffic sign", "dcdc00"),
    ("vegetation", "6b8e23"),
    ("terrain", "98fb98"),
    ("sky", "4682b4"),
    ("person", "dc143c"),
    ("rider", "ff0000"),
    ("car", "00008e"),
    ("truck", "000046"),
    ("bus", "003c64"),
    ("train", "005064"),
    ("motorcycle", "0000e6"),
    ("bicycle", "770b20"),
)


def _a2d2_11() -> Palette:
    colours = dict(_A2D2_38)
    groups = []
    for group, (name, shown) in enumerate(_A2D2_11):
        members = [
            member
            for (member, _), to in zip(_A2D2_38, A2D2_38_TO_11, strict=True)
            if to == group and member != shown
        ]
        groups.append((name, " ".join(colours[member] for member in (shown, *members))))
    ignored = (words for (_, words), to in zip(_A2D2_38, A2D2_38_TO_11, strict=True) if to < 0)
    return tuple(groups), " ".join(ignored)


PALETTES: dict[str, Palette] = {
    "a2d2-38": (_A2D2_38, ""),
    "a2d2-11": _a2d2_11(),
    "camvid-11": (_CAMVID_11, "000000"),
    "cityscapes-19": (
        _CITYSCAPES_19,
        "000000 6f4a00 510051 faaaa0 e6968c b4a5b4 966464 96785a 00005a 00006e",
    ),
}
