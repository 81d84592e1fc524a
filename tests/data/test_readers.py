"""Every reader on files in exactly the official format, and on the real parts where they are at hand."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import official_files as official
from facemsm.data.catalogue import CATALOGUE, load_dataset
from facemsm.data.ibug import PARTS_300W, PARTS_PRIVATE, read_pts
from facemsm.data.matlab import load_mat5
from facemsm.errors import AbsentError, FacemsmError

coordinates = st.floats(-500, 5000, width=32, allow_subnormal=False)


def test_300w_named_splits_and_names(tmp_path: Path) -> None:
    official.write_300w(tmp_path)
    names = {split: [s.name for s in load_dataset("300w", tmp_path, split)] for split in PARTS_300W}
    assert names["train"] == ["afw/134212_1", "afw/134212_2", "helen/trainset/100032540_1", "lfpw/trainset/image_0001"]
    assert names["common"] == ["helen/testset/296814969_3", "lfpw/testset/image_0001", "lfpw/testset/image_0002"]
    assert names["challenge"] == ["ibug/image_092 _01", "ibug/image_100_1"]
    assert names["full"] == names["common"] + names["challenge"]


def test_300w_points_are_0_based_and_paired_with_their_photo(tmp_path: Path) -> None:
    official.write_300w(tmp_path)
    (tmp_path / "bounding_boxes_ibug.mat").unlink()
    for seed, sample in enumerate(load_dataset("300w", tmp_path, "challenge")):
        expected = official.points(68, seed)
        np.testing.assert_allclose(sample.points, expected, atol=1e-4)
        np.testing.assert_allclose(sample.box, [*expected.min(axis=0), *expected.max(axis=0)], atol=1e-4)
        assert isinstance(sample.image, Path)
        assert sample.image.stem == Path(sample.name).name
        assert (sample.box_source, sample.visibility) == ("gt", None)
        assert sample.load().shape == (official.HEIGHT, official.WIDTH, 3)


@pytest.mark.parametrize("folder", [".", "Bounding Boxes"])
def test_300w_official_boxes_become_0_based(tmp_path: Path, folder: str) -> None:
    official.write_300w(tmp_path)
    (tmp_path / folder).mkdir(exist_ok=True)
    for path in tmp_path.glob("bounding_boxes_*.mat"):
        path.rename(tmp_path / folder / path.name)
    samples = load_dataset("300w", tmp_path, "lfpw/testset", "provided")
    assert [s.box.tolist() for s in samples] == [[2.5, 3.25, 59.5, 61.0], [3.5, 3.25, 60.5, 61.0]]
    assert {s.box_source for s in samples} == {"provided"}
    samples = load_dataset("300w", tmp_path, "lfpw/testset", "gt")
    assert [(s.box.tolist(), s.box_source) for s in samples] == [([4, 5, 69, 59], "gt"), ([5, 5, 70, 59], "gt")]


def test_300w_ground_truth_boxes_are_tight_where_the_files_have_none(tmp_path: Path) -> None:
    official.write_300w(tmp_path, {"ibug": ["a.jpg", "b.jpg"]})
    official.write_box_mat(tmp_path / "bounding_boxes_ibug.mat", {"b.jpg": ((1, 2, 3, 4), (5, 6, 7, 8))})
    first, second = load_dataset("300w", tmp_path, "challenge", "gt")
    np.testing.assert_allclose(first.box, [*first.points.min(axis=0), *first.points.max(axis=0)])
    assert second.box.tolist() == [4, 5, 6, 7]


def test_300w_boxes_from_csv_are_0_based_already(tmp_path: Path) -> None:
    official.write_300w(tmp_path, {"ibug": ["image_092 _01.jpg"]})
    (tmp_path / "bounding_boxes_ibug.mat").unlink()
    (tmp_path / "bounding_boxes_ibug.csv").write_text("image,x_min,y_min,x_max,y_max\nimage_092 _01.jpg,1,2,30.5,40\n")
    (sample,) = load_dataset("300w", tmp_path, "challenge", "provided")
    assert sample.box.tolist() == [1, 2, 30.5, 40]


def test_300w_is_read_as_far_as_it_is_there(tmp_path: Path) -> None:
    official.write_300w(tmp_path, {"lfpw/testset": ["image_0001.png"]})
    assert [s.name for s in load_dataset("300w", tmp_path, "full")] == ["lfpw/testset/image_0001"]
    with pytest.raises(AbsentError, match="none of the folders ibug"):
        load_dataset("300w", tmp_path, "challenge")


def test_faces_say_whose_convention_their_labels_follow(tmp_path: Path) -> None:
    official.write_300w(tmp_path, {"helen/testset": ["a.jpg"], "lfpw/testset": ["b.png"], "01_Indoor": ["c.png"]})
    assert [s.convention for s in load_dataset("300w", tmp_path, "common")] == ["300w/helen", "300w/lfpw"]
    (private,) = load_dataset("300w-private", tmp_path, "indoor")
    assert private.convention == private.data_set == "300w"
    own = [s.convention for s in load_dataset("pts", tmp_path / "lfpw" / "testset", "all", scheme="68")]
    assert own == ["pts"]


def test_reading_a_split_opens_no_photo(tmp_path: Path) -> None:
    official.write_300w(tmp_path)
    (tmp_path / "ibug" / "image_100_1.jpg").write_bytes(b"not a photo")
    broken = load_dataset("300w", tmp_path, "challenge")[1]
    with pytest.raises(FacemsmError, match=r"image_100_1\.jpg"):
        broken.load()


def test_300w_private(tmp_path: Path) -> None:
    official.write_300w(tmp_path, {"01_Indoor": ["indoor_001.png"], "02_Outdoor": ["outdoor_001.png"]})
    assert [s.name for s in load_dataset("300w-private", tmp_path, "full")] == [
        "01_Indoor/indoor_001",
        "02_Outdoor/outdoor_001",
    ]
    assert len(load_dataset("300w-private", tmp_path, "indoor")) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace(": ", ":   "),
        lambda text: text.replace("\n", "  \n") + "\n\n",
        lambda text: "\ufeff" + text,
        lambda text: text.replace("version: 1", "version:1"),
        lambda text: text.replace(" ", "\t"),
        lambda text: text.rstrip("\n"),
    ],
)
def test_pts_quirks(tmp_path: Path, change: object) -> None:
    assert callable(change)
    path = tmp_path / "a.pts"
    path.write_bytes(change(official.pts_text(official.points(68))).encode())
    np.testing.assert_allclose(read_pts(path, 68), official.points(68), atol=1e-4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(shape=st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=20))
def test_pts_round_trip(tmp_path: Path, shape: list[tuple[float, float]]) -> None:
    path = tmp_path / "a.pts"
    expected = np.array(shape, np.float32)
    path.write_text(official.pts_text(expected))
    np.testing.assert_allclose(read_pts(path), expected, atol=1.1e-3)


@pytest.mark.parametrize("split", ["train", "test"])
def test_cofw(tmp_path: Path, split: str) -> None:
    official.write_cofw(tmp_path, split)
    samples = load_dataset("cofw", tmp_path, split, "provided")
    assert [s.name for s in samples] == [f"{split}/1", f"{split}/2", f"{split}/3"]
    for seed, sample in enumerate(samples):
        np.testing.assert_allclose(sample.points, official.points(29, seed), atol=1e-4)
        assert sample.visibility is not None
        np.testing.assert_array_equal(sample.visibility, 2 - official.occluded(29, seed))
        assert sample.box.tolist() == [4, 6, 54, 46]
    np.testing.assert_array_equal(samples[0].load(), official.photo(0))
    np.testing.assert_array_equal(samples[1].load(), np.repeat(official.photo(1)[..., :1], 3, axis=2))


def _load(pickled: bytes) -> int:
    return int(pickle.loads(pickled).load().sum())


def test_cofw_photos_in_worker_processes(tmp_path: Path) -> None:
    official.write_cofw(tmp_path, "test")
    samples = load_dataset("cofw", tmp_path, "test")
    expected = [int(s.load().sum()) for s in samples]  # the parent has used the file before it forks
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_load, [pickle.dumps(s) for s in samples] * 4) == expected * 4


def test_cofw68_annotations_and_the_three_places_of_photos(tmp_path: Path) -> None:
    official.write_cofw68(tmp_path, 11)
    samples = load_dataset("cofw68", tmp_path, "test", "provided")
    assert [s.name for s in samples] == [str(n) for n in range(1, 12)]  # by number: 10 comes after 9
    for n, sample in enumerate(samples, 1):
        np.testing.assert_allclose(sample.points, official.points(68, n), atol=1e-4)
        assert sample.visibility is not None
        np.testing.assert_array_equal(sample.visibility, 2 - official.occluded(68, n))
        assert sample.box.tolist() == [4 + n, 6, 54 + n, 46]
    with pytest.raises(FacemsmError, match=r"COFW_test_color\.mat: no such file"):
        samples[0].load()
    official.write_cofw(tmp_path, "test", 11)
    np.testing.assert_array_equal(load_dataset("cofw68", tmp_path, "test")[2].load(), official.photo(2))
    for n in range(1, 12):
        official.write_photo(tmp_path / "images" / f"{n}.png", 100 + n)
    np.testing.assert_array_equal(load_dataset("cofw68", tmp_path, "test")[2].load(), official.photo(103))


def test_wflw(tmp_path: Path) -> None:
    official.write_wflw(tmp_path)
    train = load_dataset("wflw", tmp_path, "train", "provided")
    assert [s.name for s in train] == ["0--Parade/0_Parade_a_1#1", "0--Parade/0_Parade_a_1#2"]
    np.testing.assert_allclose(train[1].points, official.points(98, 1), atol=1e-5)  # 0-based in the file
    assert train[0].box.tolist() == [5, 7, 70, 60]
    sizes = {split: len(load_dataset("wflw", tmp_path, split)) for split in CATALOGUE["wflw"].splits}
    assert sizes == {
        **{"train": 2, "test": 3},
        **{"pose": 1, "expression": 1, "illumination": 1, "makeup": 1, "occlusion": 2, "blur": 1},
    }
    (pose,) = load_dataset("wflw", tmp_path, "pose")
    flags = {name: name in ("pose", "occlusion") for name in list(sizes)[2:]}
    assert dict(pose.attributes) == flags


def test_menpo_keeps_semifrontal_faces_without_photos(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.pts").write_text(official.pts_text(official.points(68)))
    (tmp_path / "a" / "2.pts").write_text(official.pts_text(official.points(39)))
    (sample,) = load_dataset("menpo", tmp_path, "semifrontal")
    assert sample.name == "a/1"
    with pytest.raises(FacemsmError, match="no photo"):
        sample.load()


def test_shapes(tmp_path: Path) -> None:
    shapes = np.stack([official.points(68, seed) for seed in range(3)])
    np.savez(tmp_path / "300w_train_68.npz", points=shapes)
    samples = load_dataset("shapes", tmp_path, "300w_train")
    np.testing.assert_array_equal(np.stack([s.points for s in samples]), shapes)


def test_coco_any_scheme(tmp_path: Path) -> None:
    path = official.write_coco(tmp_path)
    scheme = str(official.scheme_file(tmp_path))
    first, second, third = load_dataset("coco", path, "all", "provided", scheme)
    assert [first.name, second.name, third.name] == ["a.jpg#1", "a.jpg#2", "b.jpg"]
    np.testing.assert_allclose(second.points, official.points(5, 2))
    assert third.visibility is not None
    assert third.visibility.tolist() == [0, 1, 2, 2, 2]
    assert np.isnan(third.points[0]).all()
    assert third.box.tolist() == [5, 6, 55, 46]
    tight = load_dataset("coco", path, "all", "gt", scheme)[2].box
    assert np.isfinite(tight).all()  # the unlabelled point plays no part


def test_csv(tmp_path: Path) -> None:
    path = official.write_csv(tmp_path)
    first, second = load_dataset("csv", path, "all", "provided", "29")
    assert np.isnan(first.points[0]).all()
    np.testing.assert_allclose(first.points[1:], official.points(29, 0)[1:], atol=1e-5)
    np.testing.assert_allclose(second.points, official.points(29, 1), atol=1e-5)
    assert first.visibility is not None
    assert first.visibility[:3].tolist() == [0, 1, 2]
    assert (dict(first.attributes), dict(second.attributes)) == ({"glasses": "no"}, {"glasses": "yes"})
    assert second.box.tolist() == [5, 6, 70, 60]


def test_pts_folder_of_anybody(tmp_path: Path) -> None:
    for seed, name in enumerate(("x.jpg", "deep/er/x.png")):
        official.write_photo(tmp_path / name, seed)
        (tmp_path / name).with_suffix(".pts").write_text(official.pts_text(official.points(29, seed)))
    assert [s.name for s in load_dataset("pts", tmp_path, "all", scheme="29")] == ["x", "deep/er/x"]


def test_published_counts_agree_with_each_other() -> None:
    counts = CATALOGUE["300w"].splits
    for split, parts in PARTS_300W.items():
        assert counts[split] == sum(counts[part] or 0 for part in parts)
    assert CATALOGUE["300w-private"].splits.keys() == PARTS_PRIVATE.keys()
    assert (counts["train"], counts["common"], counts["challenge"], counts["full"]) == (3148, 554, 135, 689)


@pytest.mark.parametrize(
    ("name", "split", "boxes", "scheme", "message"),
    [
        ("300v", "train", "gt", None, "no data set '300v'"),
        ("300w", "test", "gt", None, "no split 'test'"),
        ("300w", "train", "detector", None, "hold no detector boxes"),
        ("menpo", "semifrontal", "provided", None, "provides no face boxes"),
        ("300w", "train", "gt", "98", "has scheme 68, not 98"),
        ("coco", "all", "gt", None, "say which"),
        ("coco", "all", "gt", "67", "no landmark scheme '67'"),
    ],
)
def test_wrong_questions(tmp_path: Path, name: str, split: str, boxes: str, scheme: str | None, message: str) -> None:
    with pytest.raises(FacemsmError, match=message):
        load_dataset(name, tmp_path, split, boxes, scheme)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "folder", "split", "count", "landmarks"),
    [
        ("300w", "300w", "lfpw/trainset", 805, 68),
        ("300w", "300w", "lfpw/testset", 224, 68),
        ("aflw2000", "aflw2000", "train", 1163, 68),
        ("aflw2000", "aflw2000", "val", 156, 68),
        ("ytf", "ytf", "val", 420, 68),
        ("wflw", "wflw_mini", "train", 80, 98),
        ("wflw", "wflw_mini", "test", 30, 98),
        ("cofw68", "cofw68", "test", 507, 68),
        ("shapes", "shapes", "300w_train", 3148, 68),
        ("shapes", "shapes", "menpo_semifrontal", 6679, 68),
    ],
)
def test_real_parts(data_root: Path, name: str, folder: str, split: str, count: int, landmarks: int) -> None:
    if not (data_root / folder).is_dir():
        pytest.skip(f"no {folder} there")
    sources = ("gt", "provided") if CATALOGUE[name].provided_boxes else ("gt",)
    for source in sources:
        samples = load_dataset(name, data_root / folder, split, source)  # type: ignore[arg-type]
        assert len(samples) == count
        assert {s.points.shape for s in samples} == {(landmarks, 2)}
        assert {s.box_source for s in samples} == {source}


@pytest.mark.parametrize("compressed", [True, False])
def test_matlab_5_as_scipy_writes_it(tmp_path: Path, compressed: bool) -> None:
    from scipy.io import savemat

    cell = np.empty((1, 3), object)
    cell[0] = [np.arange(6, dtype=np.int16).reshape(2, 3), "naïve", {"a": np.float32(2.5), "longer_name": "x"}]
    content = {
        "first": np.zeros((0, 0)),
        "u8": np.array([[0, 255]], np.uint8),
        "i64": np.array([[-(2**40)]]),
        "grid": np.arange(24.0).reshape(2, 3, 4),
        "text": "image_092 _01.jpg",
        "flags": np.array([[True, False]]),
        "cell": cell,
    }
    path = tmp_path / "a.mat"
    savemat(path, content, do_compression=compressed)
    for name in ("first", "u8", "i64", "grid", "flags"):
        value = load_mat5(path, name)
        assert value.dtype == np.float64
        np.testing.assert_array_equal(value, content[name])
    assert load_mat5(path, "text") == "image_092 _01.jpg"
    numbers, text, (struct,) = load_mat5(path, "cell")
    np.testing.assert_array_equal(numbers, cell[0, 0])
    assert text == "naïve"
    assert struct == {"a": np.array([[2.5]]), "longer_name": "x"}


def test_real_matlab_5_files_as_scipy_reads_them(data_root: Path) -> None:
    from scipy.io import loadmat

    paths = sorted((data_root / "cofw68").rglob("*.mat"))
    if not paths:
        pytest.skip("no cofw68 there")
    for path in paths[::10]:
        for name, value in loadmat(path).items():
            if not name.startswith("__"):
                np.testing.assert_array_equal(load_mat5(path, name), value)


def test_cofw_visibility_share_is_the_published_one(data_root: Path) -> None:
    samples = load_dataset("cofw68", data_root / "cofw68", "test")
    occluded = np.mean([s.visibility == 1 for s in samples])
    assert 0.2 < occluded < 0.3  # COFW: about 23 % of the points are occluded
