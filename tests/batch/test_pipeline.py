from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemsm.batch.photos import OutputNames, Shard, common_folder, find_photos
from facemsm.batch.pipeline import AHEAD, LARGEST_DRAWN, Photo, PhotoAligner, enlarged, in_order
from facemsm.errors import FacemsmError
from facemsm.face import Face
from facemsm.imaging.io import IMAGE_SUFFIXES, write_image
from facemsm.results.jsonl import PhotoSet, ResultsFile, read_results
from facemsm.typing import Image

# ``facemsm align`` with a stand-in that takes a few milliseconds a photo; tests kill it.
CHILD = f"""
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell runs in the background ignores it
from types import ModuleType
sys.path[:0] = {[str(Path(__file__).parents[1] / folder) for folder in (".", "apps")]!r}
from test_cli_align import StandInAligner

class Slow(StandInAligner):
    def align(self, image, boxes=None):
        time.sleep(DELAY)
        return super().align(image, boxes)

sys.modules["facemsm.aligner"] = ModuleType("facemsm.aligner")
sys.modules["facemsm.aligner"].Aligner = Slow
from facemsm.apps.cli import main
sys.argv[:1] = ["facemsm", "align"]
main()
"""


def child(*args: str, folder: Path, delay: float) -> subprocess.Popen[str]:
    code = CHILD.replace("DELAY", str(delay))
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code, *args], cwd=folder, **pipes)


def photos(folder: Path, count: int, side: int = 32) -> None:
    """One JPEG under ``count`` names."""
    write_image(folder / "0.jpg", np.full((side, side, 3), 90, np.uint8))
    for i in range(1, count):
        os.link(folder / "0.jpg", folder / f"{i}.jpg")


def wait_for(happens: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.slow
def test_killed_at_any_moment_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    photos(tmp_path / "in", 120)
    (tmp_path / "in" / "5 broken.jpg").write_text("no photo")
    whole = child("in", "--output", "whole", folder=tmp_path, delay=0)
    assert "5 broken.jpg" in whole.communicate()[1]
    expected = (tmp_path / "whole/landmarks.jsonl").read_bytes()
    results = tmp_path / "out/landmarks.jsonl"
    moment = random.Random(0)
    kills = 0
    while True:
        process = child("in", "--output", "out", "--resume", "--threads", "3", folder=tmp_path, delay=0.02)
        before = results.stat().st_size if results.exists() else 0
        more = moment.randrange(len(expected) // 3)
        wait_for(lambda: process.poll() is not None or (results.exists() and results.stat().st_size > before + more))  # noqa: B023
        process.kill()
        _, err = process.communicate()
        if process.returncode != -signal.SIGKILL:
            break
        kills += 1
        content = results.read_bytes()
        assert content == expected[: len(content)]
        with results.open("ab") as file:  # as if the kill had come in the middle of a line
            file.write(expected[len(content) :][: moment.randrange(300)])
    assert kills >= 2
    assert process.returncode == 1
    assert "5 broken.jpg" in err
    assert results.read_bytes() == expected


@pytest.mark.skipif(os.name == "nt", reason="needs a limit on the size of files")
@pytest.mark.slow
def test_a_disk_that_fills_up_at_any_byte_loses_nothing(tmp_path: Path) -> None:
    photos(tmp_path / "in", 5)
    child("in", "--output", "whole", folder=tmp_path, delay=0).communicate()
    expected = (tmp_path / "whole/landmarks.jsonl").read_bytes()
    for share in (0.0, 0.3, 0.5, 0.999):
        limit = max(1000, int(share * len(expected)))  # below it there is no room for what the run was made with
        code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))\n"
        command = [sys.executable, "-c", code + CHILD.replace("DELAY", "0"), "in", "-o", f"{share}", "--resume"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert "landmarks.jsonl: cannot be written (the disk is full)" in done.stderr
        child("in", "--output", f"{share}", "--resume", folder=tmp_path, delay=0).communicate()
        assert (tmp_path / f"{share}/landmarks.jsonl").read_bytes() == expected


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("threads", ["1", "3"])
def test_stops_when_told_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals, threads: str) -> None:
    photos(tmp_path / "in", 500)
    process = child("in", "--output", "out", "--threads", threads, folder=tmp_path, delay=0.05)
    results = tmp_path / "out/landmarks.jsonl"
    wait_for(lambda: results.exists() and results.stat().st_size > 0)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (128 + number, "")
    assert out.splitlines()[-1] == "interrupted; the same command with --resume continues"
    written = len(list(read_results(results)))
    assert int(out.split()[0]) in (written - 1, written)  # told between writing a line and counting it


@pytest.mark.slow
def test_memory_does_not_grow_with_the_photos(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        photos(tmp_path / f"{count}", count, side=500)  # 750 kB each once read
        process = child(str(count), "--output", f"{count}-out", "--threads", "3", folder=tmp_path, delay=0)
        assert process.stdout
        process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_maxrss

    assert peak(1000) < 1.2 * peak(10)


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    first = ResultsFile(tmp_path / "landmarks.jsonl", "68")
    for resume in (False, True):
        with pytest.raises(FacemsmError, match="another process is writing to it"):
            ResultsFile(tmp_path / "landmarks.jsonl", "68", resume=resume)
    first.close()
    ResultsFile(tmp_path / "landmarks.jsonl", "68").close()


def found(*paths: Path) -> tuple[list[Path], list[str]]:
    reports: list[str] = []
    return list(find_photos(paths, reports.append)), reports


def left_out(path: Path) -> tuple[list[Path], list[str]]:
    lines: list[str] = []
    return list(find_photos([path], pytest.fail, lambda line, _: lines.append(line))), lines


def test_photos_are_found_once_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["b.jpg", "a.jpg", "in/2.jpg", "in/10.jpg", "in/deep/x.png", "in/.h/x.png", "in/notes.txt"]
    for name in names:
        Path(name).parent.mkdir(exist_ok=True, parents=True)
        Path(name).touch()
    everything = [Path(name) for name in ("a.jpg", "b.jpg", "in/10.jpg", "in/2.jpg", "in/deep/x.png")]
    assert found(Path()) == (everything, [])
    assert found(Path(), Path("in"), Path("in/deep"), Path("./b.jpg")) == (everything, [])
    assert found(Path("in/deep"), Path("b.jpg"), Path()) == (
        [everything[4], everything[1], everything[0], *everything[2:4]],
        [],
    )
    assert found(Path("*.jpg"), Path("a.jpg")) == (everything[:2], [])
    assert found(Path("in"), Path("in/deep/..")) == (everything[2:], [])
    assert found(Path("a.jpg"), Path("in/../a.jpg"), tmp_path / "a.jpg", Path("b.jpg")) == (everything[:2], [])
    assert found(Path("no*.jpg"))[1] == [
        f"{Path('no*.jpg')}: no photo there; photos are {', '.join(IMAGE_SUFFIXES)} files"
    ]


def test_folders_with_brackets_in_a_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is there is meant by its name, even if it could be a pattern for another."""
    monkeypatch.chdir(tmp_path)
    for folder in ("holiday [2020]", "[a]/[b]", "[a]/b", "a/b", "c1/[b]", "[x]/y"):
        photos(Path(folder), 2)
    for pattern, expected in {
        "holiday [2020]/*.jpg": ["holiday [2020]/0.jpg", "holiday [2020]/1.jpg"],
        "holiday [2020]/[1-9].*": ["holiday [2020]/1.jpg"],
        "[a]/[b]/*.jpg": ["[a]/[b]/0.jpg", "[a]/[b]/1.jpg"],
        "[a]/[!c]/0.jpg": ["[a]/b/0.jpg"],
        "[a]/**/0.jpg": ["[a]/[b]/0.jpg", "[a]/b/0.jpg"],
        "[x]/[y]/0.jpg": ["[x]/y/0.jpg"],
        "c[0-9]/[[]b]/0.jpg": ["c1/[b]/0.jpg"],
        "?/b/0.jpg": ["a/b/0.jpg"],
    }.items():
        assert found(Path(pattern)) == ([Path(name) for name in expected], [])
        absolute = tmp_path / pattern
        assert found(absolute) == ([tmp_path / name for name in expected], [])
        assert common_folder([Path(pattern)]) == common_folder([absolute])
    assert common_folder([Path("holiday [2020]/*.jpg")]) == tmp_path / "holiday [2020]"


def test_photos_are_found_when_they_are_needed(tmp_path: Path) -> None:
    for name in "abc":
        photos(tmp_path / name, 2)
    search = find_photos([tmp_path / "a", tmp_path / "b", tmp_path / "none*"], pytest.fail)
    assert next(search).parent.name == "a"
    (tmp_path / "b" / "2.jpg").touch()
    assert next(search).parent.name == "a"
    assert [next(search).name for _ in range(3)] == ["0.jpg", "1.jpg", "2.jpg"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs names of any bytes")
def test_names_that_are_not_utf8_are_reported(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).touch()
    assert found(tmp_path) == ([], [f"'{tmp_path}/caf\\udce9.jpg': its name is not UTF-8; rename it"])


def test_unreadable_folders_are_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def walk(top: Path, onerror: Callable[[OSError], None], followlinks: bool) -> list[Any]:  # noqa: ARG001
        onerror(PermissionError(13, "Permission denied", str(top / "secret")))
        return []

    monkeypatch.setattr(os, "walk", walk)
    assert found(tmp_path)[1][0] == f"{tmp_path / 'secret'}: cannot be read (Permission denied)"


def test_photos_of_every_suffix_are_found_and_others_named(tmp_path: Path) -> None:
    photos = ["a.JFIF", "b.jpe", "c.mpo", "d.heic", "e.heif", "f.avif", "g.gif", "h.jxl", "IMG_1.jpg"]
    others = ["IMG_1.CR2", "IMG_2.CR2", "IMG_3.cr2", "x.psd", "._y.dng", "notes.txt", "IMG_1.MOV", "z.svg"]
    for name in photos + others:
        (tmp_path / name).touch()
    expected = [
        f"{tmp_path / 'IMG_1.CR2'} and 2 more: left out, .cr2 files cannot be read; save them as JPEG, PNG or TIFF",
        f"{tmp_path / 'IMG_1.MOV'}: left out, .mov files are videos; facemsm video takes one at a time",
        f"{tmp_path / 'x.psd'}: left out, .psd files cannot be read; save them as JPEG, PNG or TIFF",
        f"{tmp_path / 'z.svg'}: left out, .svg files cannot be read; save them as JPEG, PNG or TIFF",
    ]
    assert left_out(tmp_path) == (sorted(tmp_path / name for name in photos), expected)
    assert left_out(tmp_path / "*") == (sorted(tmp_path / name for name in photos), expected)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")
def test_linked_folders_are_searched_once(tmp_path: Path) -> None:
    for name in ("album/own/1.jpg", "other/in/2.jpg", "other/3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    album = tmp_path / "album"
    for name, target in {
        "a": tmp_path / "other",
        "b": tmp_path / "other",  # again
        "c": tmp_path / "other" / "in",  # and a part of it
        "d": album / "own",  # found by its own name
        "own/e": album,  # a loop
        "f": album / "f",  # a link to itself
    }.items():
        (album / name).symlink_to(target, target_is_directory=True)
    (tmp_path / "other" / "back").symlink_to(album, target_is_directory=True)
    expected = [album / "a" / "3.jpg", album / "a" / "in" / "2.jpg", album / "own" / "1.jpg"]
    assert left_out(album) == (expected, [])
    (album / "up").symlink_to(tmp_path, target_is_directory=True)
    photos, (line,) = left_out(album)
    assert photos == expected
    assert line.startswith(f"{album / 'up'}: left out, it is a link to a folder around the search")


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")
def test_patterns_of_any_depth_find_what_a_search_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two links that lead back would make glob's own ``**`` look through 2 ** 40 names."""
    monkeypatch.chdir(tmp_path)
    for name in ("album/1.jpg", "album/in/2.jpg", "album/in/deep/3.png", "album/in/x.cr2", "album/.h/4.jpg", "b/5.jpg"):
        Path(name).parent.mkdir(exist_ok=True, parents=True)
        Path(name).touch()
    for link, target in {"back": "album", "again": "album", "in/to": "b"}.items():
        Path("album", link).symlink_to(tmp_path / target, target_is_directory=True)
    photos(Path("album/facemsm-out/drawn"), 1)
    jpegs = [Path("album/1.jpg"), Path("album/in/2.jpg"), Path("album/in/to/5.jpg")]
    out = "album/facemsm-out: left out, it holds what earlier runs wrote"
    for pattern, expected in {
        "album/**/*.jpg": (jpegs, [out]),
        "album/**/in/**/[!5].*": (
            [jpegs[1], Path("album/in/deep/3.png")],
            [out, "album/in/x.cr2: left out, .cr2 files cannot be read; save them as JPEG, PNG or TIFF"],
        ),
        "al*/**/2.jpg": (jpegs[1:2], [out]),
        "?/**": ([Path("b/5.jpg")], []),
        "**/5.jpg": ([Path("b/5.jpg")], [out]),
        "*/*.jpg": ([jpegs[0], Path("b/5.jpg")], []),
    }.items():
        assert left_out(Path(pattern)) == expected, pattern


def test_common_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x[1]" / "y").mkdir(parents=True)
    (tmp_path / "x[1]" / "a.jpg").touch()
    monkeypatch.chdir(tmp_path)
    for path, folder in {".": "", "x[1]": "x[1]", "x[1]/a.jpg": "x[1]", "x*/?/a.jpg": "", "none/b.jpg": "none"}.items():
        assert common_folder([Path(path)]) == tmp_path / folder
    assert common_folder([Path("x[1]/y"), Path("x[1]/a.jpg")]) == tmp_path / "x[1]"


def test_output_names_are_unique_and_follow_the_folders(tmp_path: Path) -> None:
    names = {
        "x/a.jpg": "a",
        "x/y/a.jpg": "y/a",
        "x/b.jpg": "b.jpg",
        "x/B.png": "B.png",
        "x/c.d.jpg": "c.d",
        "x/e.jpg": "e.jpg",
        "x/e.png": "e.png",
        "x/e.png.jpg": "e.png.jpg",
        "x/f.photo": "f.photo~",
        "x/g": "g~",
        "x/g.jpg": "g",
        f"x/{'é' * 122}.jpg": f"{'é' * 91}~",
        f"x/{'é' * 122}.png": f"{'é' * 91}~",
        "x/f.tif": "f",
    }
    for name in [*names, "x/a.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    name_of = OutputNames(tmp_path / "x")
    got = {name: name_of(tmp_path / name) for name in names}
    for name, expected in names.items():
        assert got[name] == expected or (expected[-1] == "~" and len(got[name]) == len(expected) + 16), name
        assert got[name].startswith(expected)
    assert len(set(got.values())) == len(names)
    assert max(len(name.encode()) for name in got.values()) <= 200
    (tmp_path / "x/e.jpg").unlink()
    assert name_of(tmp_path / "x/e.jpg") == "e.jpg", "what is deleted does not come to share a name"
    assert name_of(Path("/elsewhere/g.jpg")) == "elsewhere/g.jpg"


@given(path=st.text("abc/é. ", min_size=1), count=st.integers(1, 20))
def test_every_photo_is_in_one_shard(path: str, count: int) -> None:
    shards = [Shard.parse(f"{i}/{count}") for i in range(1, count + 1)]
    assert sum(PurePath(path) in shard for shard in shards) == 1


def test_shards_never_change() -> None:
    """Runs of different versions and machines must agree."""
    names = ["a.jpg", "b/Zoë.png", "c d/1.tif", "000001.jpg"]
    assert [[PurePath(name) in Shard(i, 4) for i in (1, 2, 3, 4)].index(True) for name in names] == [1, 3, 0, 1]


@given(names=st.sets(st.text("abé ", min_size=1, max_size=3)), others=st.sets(st.text("abé ", min_size=1, max_size=3)))
def test_photo_set(names: set[str], others: set[str]) -> None:
    kept = PhotoSet((name, None) for name in names)
    assert len(kept) == len(names)
    assert [name in kept for name in others | names] == [name in names for name in others | names]


def test_photo_set_knows_every_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("in/deep")
    names = ["in/a.jpg", str(tmp_path / "in/deep/b.jpg"), "link/../c.jpg"]
    kept = PhotoSet(((name, 1) for name in names), tmp_path)
    monkeypatch.chdir(tmp_path / "in/deep")
    for name in ("../a.jpg", "b.jpg", "./b.jpg", "../deep/b.jpg", "../../link/b.jpg", "../c.jpg"):
        assert name in kept, name
    assert "a.jpg" not in kept
    assert kept._sums.nbytes + kept._bytes.nbytes == 16 * 3


@pytest.mark.parametrize("threads", [1, 3])
def test_in_order_takes_what_it_needs_and_stops(threads: int) -> None:
    taken, begun = [], []

    def items() -> Iterator[int]:
        for i in range(1000):
            taken.append(i)
            yield i

    def work(i: int) -> int:
        begun.append(i)
        time.sleep(0.002 * (i % 3))
        return i * i

    results = in_order(work, items(), threads)
    assert [next(results) for _ in range(30)] == [i * i for i in range(30)]
    assert len(taken) <= 30 + AHEAD * threads
    results.close()
    assert len(begun) <= len(taken) < 100
    assert list(in_order(work, range(7), threads)) == [i * i for i in range(7)]
    assert list(in_order(work, [], threads)) == []


def test_in_order_works_at_once() -> None:
    both = threading.Barrier(2, timeout=20)
    assert len(set(in_order(lambda _: both.wait(), range(2), 2))) == 2


def test_in_order_raises_in_turn() -> None:
    def work(i: int) -> int:
        if i == 5:
            raise FacemsmError("five")
        return i

    got: list[int] = []
    with pytest.raises(FacemsmError, match="five"):
        got.extend(in_order(work, range(20), 2))
    assert got == [0, 1, 2, 3, 4]


def test_other_detectors_are_one_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fragile:
        """Fails when another thread uses it."""

        name = "fragile"

        def __init__(self) -> None:
            self.thread: int | None = None

        def detect(self, image: Image) -> Any:  # noqa: ARG002
            assert self.thread in (None, threading.get_ident())
            self.thread = threading.get_ident()
            time.sleep(0.01)
            return np.zeros((0, 5), np.float32)

    monkeypatch.setattr("facemsm.batch.pipeline.get_detector", lambda *_, **__: Fragile())
    photos(tmp_path / "in", 8)
    work = PhotoAligner(detector="fragile")
    outcomes = list(in_order(work, [Photo(tmp_path / "in" / f"{i}.jpg") for i in range(8)], 3))
    assert [outcome.failure for outcome in outcomes] == [None] * 8


@pytest.mark.parametrize(
    ("height", "width", "size"), [(120, 100, 40), (900, 1200, 50), (30, 3000, 20), (500, 500, 300)]
)
def test_small_faces_are_drawn_large(height: int, width: int, size: int) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    x, y = width // 3, height // 2
    image[y - 2 : y + 3, x - 2 : x + 3] = 255
    points = np.array([[x, y], [x + size / 2, y + size / 2], [x - size / 2, y - size / 2]], np.float32)
    face = Face(
        points,
        np.ones(3, np.float32),
        np.zeros(3, bool),
        points[[2, 1]].ravel(),
        np.eye(2, 3, dtype=np.float32),
        points,
    )
    larger, (moved,) = enlarged(image, [face])
    scale = min(250 / size, LARGEST_DRAWN / max(height, width))
    if scale <= 1:
        assert larger is image
        assert moved is face
        return
    assert larger.shape[1] == round(scale * width)
    bright = np.argwhere(larger[..., 0] > 127).mean(axis=0)[::-1]
    np.testing.assert_allclose(moved.points[0], bright, atol=0.6)
    assert moved.points.dtype == np.float32
