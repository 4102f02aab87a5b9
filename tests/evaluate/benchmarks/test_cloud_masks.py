import numpy as np
import pytest

from skyframe.evaluate.benchmarks import open_dataset
from skyframe.spec import InputError
from tests.evaluate.layouts.damage import assert_told, cut, empty, scribble


def write_scene(path, side=512, classes=(0, 1, 3, 4), **more):
    mask = np.resize(np.array(classes, np.uint8), (side, side, 1))
    image = np.zeros((side, side, 6), np.float32)
    image[..., 2] = 0.25
    np.savez(path, **{"img": image, "msk": mask} | more)


@pytest.mark.parametrize(
    ("name", "file", "host", "red"),
    [("cloud-masks-s2", "sentinel2.npz", "s2", "B04"), ("cloud-masks-l5", "landsat5.npz", "l5", "red")],
)
def test_blocks_of_one_scene(tmp_path, name, file, host, red):
    write_scene(tmp_path / file)
    dataset = open_dataset(name, tmp_path)
    assert [len(dataset.part(p)) for p in ("train", "val", "test")] == [15, 5, 5]
    sample = dataset.read(dataset.items[1])
    assert sample.series[host].values.shape == (1, 6, 96, 96)
    assert sample.series[host].values[0, dataset.modalities[host].band_names.index(red)].max() == 0.25
    assert sample.targets["mask"][0, :4].tolist() == [2, 0, 0, 1]  # shadow, two kinds of clear, cloud


def test_real_scenes_hold_all_classes_in_every_part(shared_dir):
    for name in ("cloud-masks-s2", "cloud-masks-l5"):
        dataset = open_dataset(name, shared_dir / "data")
        for part in ("train", "val", "test"):
            masks = [dataset.read(i).targets["mask"] for i in dataset.part(part)[:5]]
            assert np.unique(masks).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (empty, "sentinel2.npz has 0 bytes"),
        (cut, "sentinel2.npz: not two arrays of numbers img and msk"),
        (scribble, "sentinel2.npz: not two arrays of numbers img and msk"),
        (lambda p: np.savez(p, img=np.zeros(3)), "not two arrays of numbers img and msk"),
        (lambda p: write_scene(p, msk=np.array([{}])), "not two arrays of numbers img and msk"),
        (lambda p: write_scene(p, side=256), "img [256, 256, 6] and msk [256, 256, 1], expected [512, 512, 6]"),
        (lambda p: write_scene(p, classes=(9,)), "9216 pixels of value 9"),
    ],
)
def test_damage_is_told(tmp_path, harm, sentence):
    write_scene(tmp_path / "sentinel2.npz", side=8)
    harm(tmp_path / "sentinel2.npz")
    assert_told("cloud-masks-s2", tmp_path, sentence)


def test_another_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no sentinel2.npz in"):
        open_dataset("cloud-masks-s2", tmp_path)
