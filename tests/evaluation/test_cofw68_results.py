from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facemsm.errors import FacemsmError
from facemsm.evaluation import metrics, occlusion
from facemsm.evaluation.cofw68_results import read_cofw68_results
from facemsm.schemes import get_scheme


def record(number: int, x: float = 10, y: float = 20, flag: int = 0) -> list[str]:
    """Four lines: point i at (x + i, y + 2 i) in the file's 1-based pixels; the first point has the flag."""
    return [
        f"{number} ",
        " ".join(f"{x + i:.3f}" for i in range(68)),
        " ".join(f"{y + 2 * i:.3f}" for i in range(68)),
        " ".join(["0"] * 67 + [str(flag)]) + " ",
    ]


def write(folder: Path, lines: list[str], end: str = "\n") -> Path:
    path = folder / "results.txt"
    path.write_bytes((end.join(lines) + end).encode())
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_records_come_in_any_order(tmp_path: Path, end: str) -> None:
    results = read_cofw68_results(write(tmp_path, record(309, x=1) + record(2, y=5.5, flag=1), end))
    assert results.numbers.tolist() == [2, 309]
    assert results.points.dtype == np.float32
    assert results.points.shape == (2, 68, 2)
    assert results.points[0, 0].tolist() == [9, 4.5]  # 1-based in the file
    assert results.points[0, 67].tolist() == [9 + 67, 4.5 + 134]
    assert results.points[1, 0].tolist() == [0, 19]
    assert results.occluded.dtype == bool
    assert np.argwhere(results.occluded).tolist() == [[0, 67]]


@pytest.mark.parametrize(
    ("line", "text", "words"),
    [
        (5, "2 3", "expected an image number"),
        (5, "0", "expected an image number"),
        (5, "1.5", "expected an image number"),
        (5, "9" * 5000, "expected an image number"),
        (5, "²", "expected an image number"),
        (5, "1", "image 1 has a record already, in line 1"),
        (6, " ".join(["1"] * 67), "expected 68 x values, found 67"),
        (7, " ".join(["1"] * 69), "expected 68 y values, found 69"),
        (6, " ".join(["1"] * 67 + ["1O"]), "expected numbers"),
        (7, " ".join(["1"] * 67 + ["nan"]), "a y value is no pixel"),
        (7, " ".join(["1"] * 67 + ["-1e39"]), "a y value is no pixel"),
        (8, " ".join(["0"] * 67 + ["2"]), "flags must be 0 or 1"),
        (8, "0", "expected 68 flag values, found 1"),
    ],
)
def test_faults_name_file_and_line(tmp_path: Path, line: int, text: str, words: str) -> None:
    lines = record(1) + record(2)
    lines[line - 1] = text
    path = write(tmp_path, lines)
    with pytest.raises(FacemsmError) as caught:
        read_cofw68_results(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line {line}: ")
    assert words in message
    assert "\n" not in message


def test_a_file_cut_short_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, (record(1) + record(2))[:-1])
    with pytest.raises(FacemsmError, match="line 7: the last record is cut short"):
        read_cofw68_results(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FacemsmError, match=r"missing\.txt: no such file"):
        read_cofw68_results(tmp_path / "missing.txt")
    with pytest.raises(FacemsmError, match="is empty"):
        read_cofw68_results(write(tmp_path, [""]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(data=st.data())
def test_damage_never_escapes_as_another_error(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray("\n".join(record(1) + record(7)).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path = tmp_path / "results.txt"
    path.write_bytes(content)
    message = ""
    try:
        results = read_cofw68_results(path)
    except FacemsmError as error:
        message = str(error)
    if message:
        assert message.startswith(str(path))
        assert "\n" not in message
    else:
        assert results.points.shape == (2, 68, 2)
        assert np.isfinite(results.points).all()


PUBLISHED = {
    "CFSS_CFOW68.txt": {"inter-pupil": "8.80", "inter-ocular": "6.28", "fr@8": "16.77", "fr@10": "9.07"},
    "HPM_HelenLfpw_COFW68test.txt": {"inter-pupil": "9.40", "inter-ocular": "6.72", "fr@8": "18.54", "fr@10": "6.71"},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_predictions_give_the_published_figures(data_root: Path, name: str) -> None:
    loadmat = pytest.importorskip("scipy.io").loadmat
    folder = data_root / "cofw68"
    if not folder.is_dir():
        pytest.skip(f"no COFW-68 at {folder}")
    results = read_cofw68_results(folder / "Results" / name)
    assert results.numbers.tolist() == list(range(1, 508))
    files = [loadmat(folder / "COFW68_Data" / "test_annotations" / f"{n}_points.mat") for n in results.numbers]
    truth = np.stack([file["Points"] for file in files]) - 1
    occluded = np.concatenate([file["Occ"] for file in files]).astype(bool)

    scheme = get_scheme("68")
    summary = metrics.summarise(metrics.nme(results.points, truth, scheme, "inter-ocular"))
    pupil = metrics.summarise(metrics.nme(results.points, truth, scheme, "inter-pupil"))
    found = {
        "inter-pupil": f"{pupil['nme']:.2f}",
        "inter-ocular": f"{summary['nme']:.2f}",
        "fr@8": f"{summary['fr@8']:.2f}",
        "fr@10": f"{summary['fr@10']:.2f}",
    }
    assert found == PUBLISHED[name]
    assert (summary["faces"], summary["unscored"], summary["missed"]) == (507, 0, 0)

    precision, recall = occlusion.precision_recall(results.occluded, occluded)
    if name.startswith("HPM"):
        assert (f"{precision * 100:.1f}", f"{recall * 100:.1f}") == ("80.7", "34.1")
    else:  # CFSS predicts no occlusion
        assert np.isnan(precision)
        assert recall == 0
