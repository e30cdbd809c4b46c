"""The 82 CMR phenotypes of UK Biobank category 157, fields 24100 to 24181.

Bai et al., Nature Medicine 2020: volumes, masses, wall thickness and strain from automatic
segmentation of the cine. Segments are numbered as the American Heart Association does; UK Biobank
has 16 of the 17.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Phenotype:
    """One column of a cohort's phenotypes.

    Attributes
    ----------
    name
        Column name, such as ``LVEDV`` or ``Ecc_7``.
    field
        UK Biobank field.
    title
        In words.
    unit
        As UK Biobank gives it; strains in % and, where the muscle shortens, negative.
    group
        ``LV``, ``RV``, ``LA``, ``RA``, ``AAo``, ``DAo``, ``WT``, ``Ecc``, ``Err`` or ``Ell``.
    short_axis
        Whether a short-axis stack shows it.
    """

    name: str
    field: int
    title: str
    unit: str
    group: str
    short_axis: bool


def _table() -> tuple[Phenotype, ...]:
    rows: list[tuple[str, str, str, str, bool]] = []
    for side, name in (("LV", "left ventricular"), ("RV", "right ventricular")):
        rows += [
            (f"{side}EDV", f"{name} end-diastolic volume", "mL", side, True),
            (f"{side}ESV", f"{name} end-systolic volume", "mL", side, True),
            (f"{side}SV", f"{name} stroke volume", "mL", side, True),
            (f"{side}EF", f"{name} ejection fraction", "%", side, True),
        ]
        if side == "LV":
            rows += [
                ("LVCO", "left ventricular cardiac output", "L/min", side, True),
                ("LVM", "left ventricular myocardial mass", "g", side, True),
            ]
    for side, name in (("LA", "left atrial"), ("RA", "right atrial")):
        rows += [
            (f"{side}max", f"{name} maximum volume", "mL", side, False),
            (f"{side}min", f"{name} minimum volume", "mL", side, False),
            (f"{side}SV", f"{name} stroke volume", "mL", side, False),
            (f"{side}EF", f"{name} ejection fraction", "%", side, False),
        ]
    for side, name in (("AAo", "ascending aorta"), ("DAo", "descending aorta")):
        rows += [
            (f"{side}_max", f"{name} maximum area", "mm2", side, False),
            (f"{side}_min", f"{name} minimum area", "mm2", side, False),
            (f"{side}_distensibility", f"{name} distensibility", "1e-3/mmHg", side, False),
        ]
    for group, name, unit, segments, short_axis in (
        ("WT", "wall thickness", "mm", 16, True),
        ("Ecc", "circumferential strain", "%", 16, True),
        ("Err", "radial strain", "%", 16, True),
        ("Ell", "longitudinal strain", "%", 6, False),
    ):
        rows += [
            (f"{group}_{k}", f"{name}, segment {k}", unit, group, short_axis)
            for k in range(1, segments + 1)
        ]
        rows.append((f"{group}_global", f"global {name}", unit, group, short_axis))
    return tuple(
        Phenotype(name, 24100 + k, title, unit, group, short_axis)
        for k, (name, title, unit, group, short_axis) in enumerate(rows)
    )


PHENOTYPES = _table()
PHENOTYPE_NAMES = tuple(p.name for p in PHENOTYPES)
UNITS: Mapping[str, str] = MappingProxyType({p.name: p.unit for p in PHENOTYPES})

VENTRICULAR10 = PHENOTYPE_NAMES[:10]
"""Volumes, ejection fractions, output and mass: PTACL's ten (Selivanov et al. 2025)."""

TARGET_GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ventricular10": VENTRICULAR10,
        # Everything measurable on the short axis: MMCL's 61 (Turgut et al. 2025).
        "sax61": tuple(p.name for p in PHENOTYPES if p.short_axis),
        # The list of the dual-phase paper's code.
        "global13": (*VENTRICULAR10, "WT_global", "Ecc_global", "Err_global"),
        "all82": PHENOTYPE_NAMES,
    }
)
