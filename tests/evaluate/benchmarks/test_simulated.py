import dataclasses

import numpy as np
import pytest

from skyframe.config.evaluate import SimulatedData, TaskConfig
from skyframe.data.cube import open_cube
from skyframe.data.read import read_label, read_series
from skyframe.evaluate.benchmarks.places import choose_dates, layouts_of, open_cubes
from skyframe.evaluate.benchmarks.simulated import load_simulated, plan_windows, targets, vary
from skyframe.evaluate.feed.features import TEST, TRAIN, VAL
from skyframe.spec import Band, InputError, Window
from tests.evaluate.worlds import CROPS, LAND_COVER, contract, labelled_cube


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    labelled_cube(root / "train_1.zarr", 1, 1280.0)
    labelled_cube(root / "test_2.zarr", 2, 1280.0)
    return root


def data(world, **changes):
    made = SimulatedData((f"{world}/train_*",), (f"{world}/test_*",), 40, 12, 30, positions=5)
    return dataclasses.replace(made, **changes)


def load(world, seed=0, given=None, **changes):
    return load_simulated(
        data(world, **changes),
        given or contract(open_cube(world / "train_1.zarr")),
        ["land_cover", "crop_type"],
        seed,
        False,
    )


def test_parts_have_the_sizes_asked_for_and_no_block_in_two_parts(world):
    inputs = load(world)
    assert [(inputs.part == p).sum() for p in (TRAIN, VAL, TEST)] == [40, 12, 30]
    blocks = [set(inputs.cluster[inputs.part == p]) for p in (TRAIN, VAL, TEST)]
    assert not blocks[0] & blocks[1] and not blocks[1] & blocks[2]
    assert sum(map(len, blocks)) == 8  # two cubes of 2 x 2 blocks of 640 m


def test_windows_are_distinct_aligned_and_the_split_does_not_depend_on_the_seed(world):
    cube = open_cube(world / "train_1.zarr")
    both = [{(w.y_m // 640, w.x_m // 640) for _, w in plan_windows([cube], data(world), seed, True)} for seed in (0, 1)]
    assert both[0] == both[1]
    windows = [w for _, w in plan_windows([cube], data(world, train_windows=192), 0, False)]
    assert len({(w.y_m, w.x_m) for w in windows}) == 192
    assert all(w.y_m % 80 == w.x_m % 80 == 0 and w.size_m == 80.0 for w in windows)
    with pytest.raises(
        InputError, match=r"cube train_1 has 3 training blocks of 64 px, room for 192 windows, expected 193"
    ):
        plan_windows([cube], data(world, train_windows=193), 0, False)


def test_values_and_truth_are_the_cubes_and_repeat_by_seed(world):
    inputs, again, other = load(world), load(world), load(world, seed=1)
    assert inputs.split == again.split != other.split
    sample = inputs.samples[7]
    cube = open_cube(world / "train_1.zarr")
    (_, window) = plan_windows([cube], data(world), 0, False)[7]
    whole = read_series(cube, window)["s2"]
    chosen = np.flatnonzero(np.isin(whole.day, sample.series["s2"].day))
    assert len(sample.series["s2"].day) == 6
    assert (sample.series["s2"].values == whole.values[chosen]).all()
    assert (inputs.truth["land_cover"][7].reshape(8, 8) == read_label(cube, "land_cover", window)).all()
    assert (inputs.truth["crop_type"] >= -1).all() and (inputs.truth["crop_type"] == -1).any()
    assert inputs.classes == {"land_cover": LAND_COVER, "crop_type": CROPS}


def test_region_is_looked_up_by_place(world):
    inputs = load(world)
    assert {s.region for s, p in zip(inputs.samples, inputs.part, strict=True) if p != TEST} == {0}
    assert {s.region for s, p in zip(inputs.samples, inputs.part, strict=True) if p == TEST} == {-1}


def test_scene_class_is_the_majority_and_pixel_classes_follow_positions(world):
    inputs = load(world)
    maps = inputs.truth["land_cover"]
    maps[0] = np.repeat([0, 1, 2], [20, 34, 10])
    maps[1] = np.repeat([0, 1, 2], [31, 17, 16])
    maps[2] = np.repeat([0, -1], [40, 24])
    scene = targets(inputs, "land_cover", TaskConfig("simulated", label="land_cover"))
    assert scene[:3].tolist() == [1, -1, 0]
    assert targets(inputs, "land_cover", TaskConfig("simulated", label="land_cover", ignore=(1,)))[0] == -1
    assert targets(inputs, "land_cover", TaskConfig("simulated", label="land_cover", min_share=0.45))[1] == 0
    pixel = targets(inputs, "land_cover", TaskConfig("simulated", "pixel", "land_cover"))
    assert pixel.shape == (82, 5)
    assert (pixel[0] == maps[0][inputs.positions[0]]).all()


def test_variations_hide_what_they_say_and_leave_the_rest(world):
    inputs, given = load(world), contract(open_cube(world / "train_1.zarr"))
    sar = vary(inputs, TaskConfig("simulated", modalities=("s1",)), given, 0)
    assert {n for s in sar.samples for n in s.series} == {"s1"}
    cloudy = vary(inputs, TaskConfig("simulated", clear_frames=1), given, 0)
    assert all(s.series["s2"].valid.any((1, 2)).sum() == 1 for s in cloudy.samples)
    assert all(
        (a.series["s1"].valid == b.series["s1"].valid).all()
        for a, b in zip(cloudy.samples, inputs.samples, strict=True)
    )
    assert inputs.samples[0].series["s2"].valid.any((1, 2)).sum() > 1
    blind = vary(inputs, TaskConfig("simulated", clear_frames=0), given, 0)
    assert not any(s.series["s2"].valid.any() for s in blind.samples)
    swapped = vary(inputs, TaskConfig("simulated", regions="swapped"), given, 0)
    told = {
        (int(part), a.region, b.region)
        for part, a, b in zip(inputs.part[inputs.row], inputs.samples, swapped.samples, strict=True)
    }
    assert told == {(TRAIN, 0, 0), (VAL, 0, 0), (TEST, -1, -1)}
    reached = dataclasses.replace(inputs, samples=[dataclasses.replace(s, region=0) for s in inputs.samples])
    swapped = vary(reached, TaskConfig("simulated", regions="swapped"), given, 0)
    assert {(int(p), s.region) for p, s in zip(inputs.part[inputs.row], swapped.samples, strict=True)} == {
        (TRAIN, 0),
        (VAL, 0),
        (TEST, 2),
    }
    place = vary(inputs, TaskConfig("simulated", regions="place"), given, 0)
    assert [s.region for s in place.samples] == [s.region for s in inputs.samples]
    unseen = vary(inputs, TaskConfig("simulated", regions="unseen"), given, 0)
    assert {s.region for s in unseen.samples} == {-1}
    assert "at most 1 clear optical dates" in cloudy.source and "only s1" in sar.source
    with pytest.raises(InputError, match=r"modalities: 's3' is none of the encoder's .s2, s1."):
        vary(inputs, TaskConfig("simulated", modalities=("s3",)), given, 0)


def test_auto_tells_no_region_where_only_some_windows_have_one(world):
    inputs, given = load(world), contract(open_cube(world / "train_1.zarr"))
    mixed = vary(inputs, TaskConfig("simulated"), given, 0)
    assert {s.region for s in mixed.samples} == {-1}
    assert mixed.source.endswith("regions unseen")
    known = [i for i, s in enumerate(inputs.samples) if s.region == 0]
    inside = dataclasses.replace(inputs, samples=[inputs.samples[i] for i in known], row=inputs.row[known])
    assert {s.region for s in vary(inside, TaskConfig("simulated"), given, 0).samples} == {0}


def test_wrong_cubes_and_labels_are_named(world, tmp_path):
    given = contract()
    with pytest.raises(InputError, match=r"data.simulated.train: nothing at '.*nowhere.', expected finished cubes"):
        load_simulated(data(world, train=(f"{world}/nowhere*",)), given, ["land_cover"], 0, False)
    with pytest.raises(InputError, match=r"train_1.zarr stands under train and test, expected different cubes"):
        load_simulated(data(world, test=(f"{world}/*",)), given, ["land_cover"], 0, False)
    with pytest.raises(
        InputError, match=r"cube train_1: no truth layer 'crop_typ', expected one of .*did you mean 'crop_type'"
    ):
        load_simulated(data(world), given, ["crop_typ"], 0, False)
    with pytest.raises(InputError, match=r"truth layer 'moisture' is continuous"):
        load_simulated(data(world), given, ["moisture"], 0, False)
    linear = dataclasses.replace(given.modalities["s1"], units="linear")
    with pytest.raises(InputError, match=r"s1 has units 'dB', expected 'linear'"):
        load_simulated(data(world), contract(modalities={"s1": linear}), ["land_cover"], 0, False)


def test_a_contract_with_other_sensors_or_band_orders(world):
    given = contract()
    s2 = given.modalities["s2"]
    turned = dataclasses.replace(s2, bands=(Band("B08"), Band("B12"), Band("B02")), mean=(1.0,) * 3, std=(1.0,) * 3)
    inputs = load_simulated(data(world), contract(modalities={"s2": turned}), ["land_cover"], 0, False)
    series = inputs.samples[0].series["s2"]
    assert series.bands.tolist() == [True, False, True]
    assert series.values[:, 1].max() == 0
    unknown = dataclasses.replace(s2, name="s3")
    with pytest.raises(InputError, match=r"cube train_1 has none of s3, which the encoder takes"):
        open_cubes([f"{world}/train_*"], contract(modalities={"s3": unknown}), "key")


def test_dates_come_one_from_each_stretch_of_the_year():
    days = np.arange(100, dtype=np.int32)
    chosen = choose_dates(days, 10, 0, "cube")
    assert (chosen // 10).tolist() == list(range(10))
    assert (choose_dates(days, 10, 0, "cube") == chosen).all()
    assert (choose_dates(days, 10, 1, "cube") != chosen).any()
    assert choose_dates(days[:3], 10, 0).tolist() == [0, 1, 2]


def test_layouts_need_a_number_of_dates_for_every_series():
    assert layouts_of(contract(), {"s2": 9}, 8)["s2"].num_dates == 9
    with pytest.raises(
        InputError, match=r"the contract gives no number of dates for 's1'; set data.simulated.frames.s1"
    ):
        layouts_of(contract(frames={"s2": 4}), {}, 8)


def test_window_of_the_plan_is_a_plain_window(world):
    cube = open_cube(world / "test_2.zarr")
    assert all(
        isinstance(w, Window) and w.cube == str(cube.path) for _, w in plan_windows([cube], data(world), 0, None)
    )
