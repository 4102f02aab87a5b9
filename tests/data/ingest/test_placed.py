import dataclasses
from datetime import UTC, datetime

import pytest

from skyframe.data.ingest.placed import Collected, place, scenes_digest
from skyframe.data.ingest.query import Area, Query
from skyframe.data.ingest.scenes import Asset, Sampling, Scene
from skyframe.spec import Band, Grid, InputError, Modality

S2, S1 = (Modality(name, "series", (Band("b"),), 10.0, "dn", "uint16") for name in ("s2", "s1"))
QUERY = Query(Area("EPSG:32631"), {})
GRIDS = {"west": Grid("EPSG:32631", 0, 1000, 1000, 1000), "east": Grid("EPSG:32631", 1000, 1000, 1000, 1000)}


def scene(name, left):
    when = datetime(2021, 6, 1, tzinfo=UTC)
    return Scene(name, when, {"b": Asset(f"http://host/{name}.tif")}, (left, 0.0, left + 500.0, 1000.0))


def test_a_signature_is_not_part_of_a_scene_but_its_offset_is():
    plain = scene("a", 0)
    signed = dataclasses.replace(plain, assets={"b": Asset("http://host/a.tif?sig=1")})
    shifted = dataclasses.replace(plain, assets={"b": Asset("http://host/a.tif", offset=-0.1)})
    assert scenes_digest([plain]) == scenes_digest([signed]) != scenes_digest([shifted])
    assert scenes_digest([plain]) != scenes_digest([plain, plain])


def test_each_cube_has_the_modalities_that_touch_it():
    layers = [
        Collected(S2, Sampling(), [scene("a", 0), scene("b", 1200)]),
        Collected(S1, Sampling(), [scene("c", 100)]),
    ]
    found = place("stac", QUERY, GRIDS, layers)
    assert {name: [layer.modality.name for layer in s.layers] for name, s in found.items()} == {
        "west": ["s2", "s1"],
        "east": ["s2"],
    }
    assert found["east"].about["dates"] == {"s2": [{"track": "", "scenes": ["b"]}]}


def test_one_cube_must_have_all_and_several_at_least_one():
    layers = [Collected(S2, Sampling(), [scene("a", 0)]), Collected(S1, Sampling(), [scene("c", 5000)])]
    with pytest.raises(InputError, match=r"s1: no scene touches the area, left 0, bottom 0, right 1000, top 1000"):
        place("stac", QUERY, {"": GRIDS["west"]}, layers)
    with pytest.raises(InputError, match="no scene touches any of 2 cubes"):
        place("stac", QUERY, GRIDS, layers[1:])
