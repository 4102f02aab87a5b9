"""The 43 CORINE land-cover classes of BigEarthNet v1 and the 19 that they were joined to.

Source: Sumbul et al., BigEarthNet-MM, GRSM 2021, and the authors' label indices, in their order.
"""

from __future__ import annotations

_RULE = (
    ("Continuous urban fabric", "Urban fabric"),
    ("Discontinuous urban fabric", "Urban fabric"),
    ("Industrial or commercial units", "Industrial or commercial units"),
    ("Road and rail networks and associated land", ""),
    ("Port areas", ""),
    ("Airports", ""),
    ("Mineral extraction sites", ""),
    ("Dump sites", ""),
    ("Construction sites", ""),
    ("Green urban areas", ""),
    ("Sport and leisure facilities", ""),
    ("Non-irrigated arable land", "Arable land"),
    ("Permanently irrigated land", "Arable land"),
    ("Rice fields", "Arable land"),
    ("Vineyards", "Permanent crops"),
    ("Fruit trees and berry plantations", "Permanent crops"),
    ("Olive groves", "Permanent crops"),
    ("Pastures", "Pastures"),
    ("Annual crops associated with permanent crops", "Permanent crops"),
    ("Complex cultivation patterns", "Complex cultivation patterns"),
    (
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
    ),
    ("Agro-forestry areas", "Agro-forestry areas"),
    ("Broad-leaved forest", "Broad-leaved forest"),
    ("Coniferous forest", "Coniferous forest"),
    ("Mixed forest", "Mixed forest"),
    ("Natural grassland", "Natural grassland and sparsely vegetated areas"),
    ("Moors and heathland", "Moors, heathland and sclerophyllous vegetation"),
    ("Sclerophyllous vegetation", "Moors, heathland and sclerophyllous vegetation"),
    ("Transitional woodland/shrub", "Transitional woodland, shrub"),
    ("Beaches, dunes, sands", "Beaches, dunes, sands"),
    ("Bare rock", ""),
    ("Sparsely vegetated areas", "Natural grassland and sparsely vegetated areas"),
    ("Burnt areas", ""),
    ("Inland marshes", "Inland wetlands"),
    ("Peatbogs", "Inland wetlands"),
    ("Salt marshes", "Coastal wetlands"),
    ("Salines", "Coastal wetlands"),
    ("Intertidal flats", ""),
    ("Water courses", "Inland waters"),
    ("Water bodies", "Inland waters"),
    ("Coastal lagoons", "Marine waters"),
    ("Estuaries", "Marine waters"),
    ("Sea and ocean", "Marine waters"),
)
"""Each of the 43 with the class of the 19 that took it up; empty where it was dropped."""

CLASSES_43 = tuple(old for old, _ in _RULE)
TO_19 = {old: new for old, new in _RULE if new}
CLASSES_19 = (
    "Urban fabric", "Industrial or commercial units", "Arable land", "Permanent crops", "Pastures",
    "Complex cultivation patterns",
    "Land principally occupied by agriculture, with significant areas of natural vegetation", "Agro-forestry areas",
    "Broad-leaved forest", "Coniferous forest", "Mixed forest", "Natural grassland and sparsely vegetated areas",
    "Moors, heathland and sclerophyllous vegetation", "Transitional woodland, shrub", "Beaches, dunes, sands",
    "Inland wetlands", "Coastal wetlands", "Inland waters", "Marine waters",
)  # fmt: skip
"""In the authors' order, which numbers them."""
