"""The whole way of a face as one ONNX graph: photo and boxes in, landmarks in photo pixels out.

One function a step, named after what it repeats in operators. Faces go through a ``Loop``, ``TOGETHER`` at once, so
memory does not grow with their number. All but the networks is in standard operators: maps in float64, the rest in
float32. The numbers are those of :class:`facemsm.aligner.Aligner`.

Maps are (N, 3, 3) float64, homogeneous. Points are (N, 2, L), x and y; what belongs to points is (N, 1, L). What
must be done face by face lacks the first axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto
from onnx.helper import tensor_dtype_to_np_dtype

from facemsm.aligner import Aligner
from facemsm.assets import SAMPLE, SAMPLE_BOX
from facemsm.confidence.model import (
    AROUND,
    EMPTY_SPREAD,
    FEATURES,
    FLAT,
    NEAR,
    PROFILE,
    PROFILE_SLOPE,
    Calibration,
    Logistic,
    neighbour_shares,
)
from facemsm.errors import FacemsmError, first_line
from facemsm.export.builder import Builder, Operand, Value
from facemsm.files import atomic_write
from facemsm.geometry import CROP_ENLARGEMENT, normalised_to_pixels, pixels_to_normalised, similarity
from facemsm.imaging.io import read_image
from facemsm.provenance import commit
from facemsm.runtime.model import HOURGLASS, STGAN, Model
from facemsm.runtime.session import LANDMARKS
from facemsm.schemes import LandmarkScheme
from facemsm.shapes.dictionary import ShapeDictionary
from facemsm.shapes.posterior import EMPTY_VARIANCE, FREEDOM, FRONTAL, SPREAD_FLOOR, Noise, ShapePrior
from facemsm.shapes.reconstruction import TINY, Reconstruction
from facemsm.stages import (
    IDENTITY_THETA,
    LARGEST_SCALE,
    LEAST_SCALE,
    RETRY_BELOW,
    RETRY_MIN_GAIN,
    RETRY_ROTATIONS,
    Settings,
)
from facemsm.typing import Array, Method

TOLERANCES = {"points": 0.05, "scores": 0.01, "occlusion": 0.01, "theta": 0.001}
"""The outputs, and how far they may be from ``Aligner``: photo pixels, probabilities, normalised coordinates."""

TOGETHER = 4
"""Faces at once. More take longer each, as feature maps leave the processor's cache."""

_INVERSE_STEPS = 16
"""Of Newton's iteration, whose error is squared by each: enough for condition numbers up to some thousands. Those of
real faces, in the basis of :func:`_whitened`, are below 400."""

_TYPICAL_PRECISION = 0.3
"""1 / px², of an observed coordinate; makes those condition numbers least."""

_SOLUTION_STEPS = 80
"""Of conjugate gradients for the exemplars' weights."""


def export_whole(model: Model, path: Path, *, method: Method | None = None) -> None:
    """Write :func:`whole_graph` to a file, once it gives the numbers of ``Aligner`` on the bundled sample photo.

    Args:
        model: as bundled, or one's own.
        path: the ``.onnx`` file.
        method: as in :class:`facemsm.stages.Settings`.

    Raises:
        FacemsmError: the model cannot follow the method, ONNX Runtime cannot run the file, the numbers differ, or the
            file cannot be written.
    """
    aligner = Aligner(model, settings=Settings(method))
    content = whole_graph(model, aligner.method).SerializeToString()
    photo, boxes = read_image(SAMPLE), SAMPLE_BOX[None]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        found = session.run(list(TOLERANCES), {"photo": photo, "boxes": boxes})
    except Exception as error:  # ONNX Runtime's have no class in common
        raise FacemsmError(
            f"{model.folder}: ONNX Runtime cannot run its networks as one file ({first_line(error)})"
        ) from error
    (face,) = aligner.align(photo, boxes)
    occlusion = face.occluded if face.occlusion is None else face.occlusion
    expected = (face.points, face.scores, occlusion, face.theta)
    for (name, tolerance), value, wanted in zip(TOLERANCES.items(), found, expected, strict=True):
        difference = float(np.abs(value[0] - wanted).max())
        if not difference <= tolerance:
            raise FacemsmError(f"{model.folder}: {name} of the ONNX file and of Aligner differ by {difference:.2g}")
    with atomic_write(path) as partial:
        partial.write_bytes(content)


def whole_graph(model: Model, method: Method) -> ModelProto:
    """The graph of a model and a method; ``docs/onnx.md`` says what it takes and gives.

    Args:
        model: a checked model.
        method: ``calibrated`` needs a calibrated model.
    """
    count, networks = model.scheme.count, load_networks(model)
    shapes = dict(zip(TOLERANCES, [(count, 2), (count,), (count,), (2, 3)], strict=True))

    def body(photo: Value, boxes: Value) -> list[Value]:
        def some(boxes: Value) -> list[Value]:
            """Algorithm 2."""
            seen = see(photo, boxes, model, networks, retry=method == "calibrated")
            points, scores, occlusion = by_paper(seen, model) if method == "paper" else calibrated(seen, model)
            rows = (value.reshape(-1, count) for value in (scores, occlusion))
            return [to_points(seen.to_photo, points), *rows, seen.theta]

        return in_parts(boxes, [np.zeros((0, *shape), np.float32) for shape in shapes.values()], some)

    threshold = model.calibration.threshold if model.calibration and method == "calibrated" else 0.5
    notes = {
        "commit": commit(),
        "model": model.name,
        "checksum": model.checksum,
        "method": method,
        "scheme": model.scheme.name,
        "occluded from": f"{threshold:g}",
    }
    outputs: dict[str, Sequence[int | str]] = {name: ("faces", *shape) for name, shape in shapes.items()}
    inputs = {"photo": (np.uint8, ("height", "width", 3)), "boxes": (np.float32, ("faces", 4))}
    return Builder().model("facemsm", inputs, outputs, body, notes)


def in_parts(boxes: Value, none: Sequence[NDArray[Any]], work: Callable[[Value], Sequence[Value]]) -> list[Value]:
    """Outputs of all faces, which ``work`` makes of the boxes (N, 4) of up to ``TOGETHER``; ``none`` are those of no
    face."""
    b, count = boxes.builder, boxes.op("Shape", dtype=np.int64, start=0, end=1)

    def part(index: Value, *found: Value) -> tuple[list[Value], list[Any]]:
        first = index.reshape(1) * TOGETHER
        some = boxes.op("Slice", first, first + TOGETHER, np.array([0]))
        return [b.concat(*values) for values in zip(found, work(some), strict=True)], []

    return b.loop(((count + (TOGETHER - 1)) / TOGETHER).reshape(), [b.value(value) for value in none], part)


# --- The stages, as in facemsm.stages and facemsm.aligner ------------------------------------------------------------


@dataclass(frozen=True)
class StageValues:
    """What stages 1 and 2 find of N faces in a photo.

    Attributes:
        theta: (N, 2, 3) float32.
        to_photo: (N, 3, 3) float64, canonical to photo pixels.
        canonical: (N, S, S, 3) uint8.
        points: (N, 2, L), canonical pixels.
        scores: (N, 1, L), Eq. 9 in [0, 1].
        spread: (N, 3, L).
        rest: other outputs of stage 2.
        crop: (N, S, S, 3) uint8.
    """

    theta: Value
    to_photo: Value
    canonical: Value
    points: Value
    scores: Value
    spread: Value
    rest: list[Value]
    crop: Value


def load_networks(model: Model) -> tuple[ModelProto, ModelProto]:
    """Those of stages 1 and 2."""
    generator, hourglass = (onnx.load(model.path(file)) for file in (STGAN, HOURGLASS))
    return generator, hourglass


def see(
    photo: Value,
    boxes: Value,
    model: Model,
    networks: tuple[ModelProto, ModelProto],
    rest: Sequence[str] = (),
    *,
    retry: bool | Value,
) -> StageValues:
    """Stages 1 and 2 about boxes (N, 4), and again for faces with low scores at other rotations.

    A ``Loop`` of tries, so that the networks are in the file once: the first is of all faces, the others of those that
    it gives low scores, if there are any.

    Args:
        photo: (H, W, 3).
        boxes: (N, 4).
        model: of which the networks are.
        networks: of stages 1 and 2.
        rest: names of other outputs of stage 2.
        retry: whether there may be other tries, bool (1,) if the graph is to decide.
    """
    b, count, size = photo.builder, model.scheme.count, model.codec.input_size
    generator, hourglass = networks
    upright = box_to_crop(boxes.to(np.float64), size)
    angles = [0.0, *RETRY_ROTATIONS]
    turns = np.stack([np.vstack((similarity(angle, centre=2 * [(size - 1) / 2]), (0, 0, 1))) for angle in angles])
    back = np.stack([similarity(-angle)[:, :2] for angle in angles])
    doubt: Operand = RETRY_BELOW
    if isinstance(retry, Value):
        doubt = b.where(retry, b.value(RETRY_BELOW, np.float32), -1)
    zero, one = (b.value(np.array(value, np.int64)) for value in (0, 1))
    number = upright.op("Shape", dtype=np.int64, start=0, end=1)

    def numbers(count: Value) -> Value:
        return b.op("Range", zero, count.reshape(), one)

    def attempt(index: Value, active: Value, least: Value, crops: Value, *kept: Value) -> tuple[list[Value], list[Any]]:
        """One rotation of the faces ``active``; one is taken if its mean score is above ``least``."""
        to_crop = b.value(turns)[index] @ upright[active]
        crop = cut(photo, to_crop, size)
        (theta,) = b.call(generator, crop, ["theta"])
        theta = sanitize_theta(theta.reshape(-1, 2, 3).to(np.float64))
        to_photo = invert(to_crop) @ theta_to_matrix(theta, size)
        canonical = cut(photo, invert(to_photo), size)
        faces = b.concat(canonical, _reordered(canonical, range(size)[::-1])) if model.mirror else canonical
        points, intensity, spread, *others = b.call(hourglass, faces, [*LANDMARKS, *rest])
        scores = (intensity.reshape(-1, 1, count) / model.codec.ideal_score).clip(0, 1)
        theta = (b.value(back)[index] @ theta).to(np.float32)
        points, spread = (v.reshape(-1, count, n).transpose(0, 2, 1) for v, n in ((points, 2), (spread, 3)))
        if model.mirror:
            points, scores, spread = mean_of_mirrored(points, scores, spread, model)
            others = [value.split(2)[0] for value in others]
        found = theta, to_photo, canonical, points, scores, spread, *others

        mean, first = scores.op("ReduceMean", np.array([1, 2]), keepdims=0), index.op("Equal", 0, dtype=np.bool_)
        better = b.op("Or", mean > least, first)
        old = kept[0].op("Shape", dtype=np.int64, start=0, end=1)
        place = b.where(better, numbers(active.op("Shape", dtype=np.int64)) + old, active)
        place = numbers(number).op("ScatterElements", active, place, axis=0)
        kept = tuple(b.concat(*values)[place] for values in zip(kept, found, strict=True))
        crops = b.concat(crops, crop)[numbers(number)]
        going_on = b.op("Or", mean < doubt, first.op("Not")).op("NonZero", dtype=np.int64).reshape(-1)
        least = b.where(first, (mean + RETRY_MIN_GAIN).op("Max", RETRY_BELOW), b.where(better, mean, least))
        return [active[going_on], least[going_on], crops, *kept], []

    none: list[Operand] = [
        np.zeros((0, size, size, 3), np.uint8),
        np.zeros((0, 2, 3), np.float32),
        np.zeros((0, 3, 3), np.float64),
        np.zeros((0, size, size, 3), np.uint8),
        *(np.zeros((0, n, count), np.float32) for n in (2, 1, 3)),
        *(_of_no_image(output) for name in rest for output in hourglass.graph.output if output.name == name),
    ]
    tries = b.value(np.array(1 if retry is False else len(angles), np.int64))
    start = [numbers(number), numbers(number).to(np.float32) * 0, *(b.value(value) for value in none)]
    _, _, crop, theta, to_photo, canonical, points, scores, spread, *more = b.loop(
        tries, start, attempt, goes_on=lambda active, *_: active.op("Size", dtype=np.int64) > 0
    )
    return StageValues(theta, to_photo, canonical, points, scores, spread, more, crop)


def mean_of_mirrored(points: Value, scores: Value, spread: Value, model: Model) -> list[Value]:
    """Of N faces, what :func:`facemsm.stages.mirrored` makes of stage 2's values for them and their mirror images.

    Args:
        points: (2N, 2, L).
        scores: (2N, 1, L).
        spread: (2N, 3, L).
        model: for its scheme.
    """
    direct, reflected = zip(*(value.split(2) for value in (points, scores, spread)), strict=True)
    points, scores, spread = (_reordered(value, model.scheme.flip) for value in reflected)
    points = points * [[-1], [1]] + [[model.codec.input_size - 1], [0]]
    x, y = ((direct[0] - points) / 2).split(2, axis=1)
    mean = [(one + other) / 2 for one, other in zip(direct, (points, scores, spread * [[1], [-1], [1]]), strict=True)]
    return [*mean[:2], mean[2] + points.builder.concat(x * x, x * y, y * y, axis=1)]


def _reordered(value: Value, order: Sequence[int] | NDArray[np.integer]) -> Value:
    """With axis 2 in another order."""
    return value.op("Gather", np.array(order, np.int64), axis=2)


def _of_no_image(output: ValueInfoProto) -> NDArray[Any]:
    """What a network would give as that."""
    kind = output.type.tensor_type
    sizes = [0, *(size.dim_value for size in kind.shape.dim[1:])]
    return np.zeros(sizes, tensor_dtype_to_np_dtype(kind.elem_type))


def by_paper(seen: StageValues, model: Model, thresholds: Operand | None = None) -> tuple[Value, Value, Value]:
    """Stage 3 of Algorithm 2: points (N, 2, L), scores (N, 1, L) relative to the best, 1 where one was rebuilt.

    Args:
        seen: what is known of the faces.
        model: for its dictionary.
        thresholds: (1, L), shares of the best score; by default those of :class:`Reconstruction`.
    """
    b, dictionary, count = seen.points.builder, model.dictionary(), model.scheme.count

    def one(index: Value) -> tuple[list[Value], list[tuple[Value, Sequence[int]]]]:
        points, rebuilt = reconstruct(seen.points[index], seen.scores[index], dictionary, Reconstruction(), thresholds)
        return [], [(points, (2, count)), (rebuilt.to(np.float32), (1, count))]

    points, rebuilt = b.loop(_number(seen.points), [], one)
    return points, relative_scores(seen.scores), rebuilt


def calibrated(seen: StageValues, model: Model) -> tuple[Value, Value, Value]:
    """Stage 3 of a calibrated model: points (N, 2, L), that they are right and that they are hidden (N, 1, L)."""
    prior, calibration, scheme = model.prior(), model.calibration, model.scheme
    assert prior is not None
    assert calibration is not None
    covariance = observation_covariance(seen.points, seen.scores, seen.spread, calibration.noise, scheme)
    found = posterior(seen.points, covariance, prior)
    details = detail(seen.canonical, model.codec.input_size)
    features = describe(seen.points, seen.scores, seen.spread, details, found, prior, scheme)
    scores, occlusion = predict(features, calibration)
    if calibration.stage3 == "exemplars":
        return by_paper(seen, model)[0], scores, occlusion
    return found[0] if calibration.stage3 == "posterior" else seen.points, scores, occlusion


# --- Maps, as in facemsm.geometry and facemsm.stages -----------------------------------------------------------------


def box_to_crop(boxes: Value, size: int) -> Value:
    """Photo to crop, of boxes (N, 4); one that is not finite is taken for a pixel's."""
    low, high = boxes.builder.where(_finite(boxes), boxes, 0).split(2, axis=1)
    side = CROP_ENLARGEMENT * (high - low).op("ReduceMax", np.array([1]), keepdims=1).op("Max", 1e-6)
    scale = size / side
    shift = (size - 1) / 2 - scale * ((low + high) / 2)
    return _homogeneous(boxes.builder.concat(scale.reshape(-1, 1, 1) * np.eye(2), shift.reshape(-1, 2, 1), axis=2))


def sanitize_theta(theta: Value) -> Value:
    """θ (N, 2, 3), or ``IDENTITY_THETA`` where it is not finite, mirrors the face or shows next to nothing of it."""
    a, b, _, c, d, _ = theta.reshape(-1, 6, 1).split(6, axis=1)
    scale = a * d - b * c
    good = _finite(theta.reshape(-1, 6, 1)) & (scale > LEAST_SCALE) & (scale < LARGEST_SCALE)
    return theta.builder.where(good, theta, IDENTITY_THETA)


def theta_to_matrix(theta: Value, size: int) -> Value:
    """Canonical to crop (Eq. 2)."""
    to_pixels, to_normalised = (
        np.vstack((matrix(size, size), (0, 0, 1))) for matrix in (normalised_to_pixels, pixels_to_normalised)
    )
    return theta.builder.value(to_pixels) @ (_homogeneous(theta) @ to_normalised)


def invert(matrix: Value) -> Value:
    """The inverse maps (N, 3, 3)."""
    a, b, x, c, d, y, *_ = matrix.reshape(-1, 9).split(9, axis=1)
    determinant = a * d - b * c
    a, b, c, d = d / determinant, -b / determinant, -c / determinant, a / determinant
    inverse = matrix.builder.concat(a, b, -(a * x + b * y), c, d, -(c * x + d * y), axis=1)
    return _homogeneous(inverse.reshape(-1, 2, 3))


def to_points(matrix: Value, points: Value) -> Value:
    """(N, L, 2) float32: points (N, 2, L) mapped."""
    b = matrix.builder
    rows = matrix.op("Gather", np.array([0, 1]), axis=1)
    linear, shift = b.ops("Split", rows, b.value(np.array([2, 1])), outputs=2, axis=2)
    return (linear @ points.to(np.float64) + shift).transpose(0, 2, 1).to(np.float32)


def _homogeneous(rows: Value) -> Value:
    """(N, 3, 3) of the upper rows (N, 2, 3)."""
    return rows.op("Pad", np.array([0, 0, 0, 0, 1, 0])) + np.diag([0.0, 0.0, 1.0])


def _finite(values: Value) -> Value:
    """Whether all along the second axis are."""
    return (values * 0).sum(1).op("Equal", 0, dtype=np.bool_)  # 0 times infinity is NaN


def _number(values: Value) -> Value:
    """int64 (), of faces."""
    return values.op("Shape", dtype=np.int64, start=0, end=1).reshape()


# --- Images, as in facemsm.imaging.warping ---------------------------------------------------------------------------


def cut(photo: Value, maps: Value, size: int) -> Value:
    """Crops (N, size, size, 3) uint8 of a photo (H, W, 3) by maps from it, as ``warp`` cuts them."""
    b = photo.builder
    a, b_, x, c, d, y, *_ = maps.reshape(-1, 9).split(9, axis=1)
    determinant = a * d - b_ * c
    scale = determinant.op("Abs")
    step = (1 / scale.op("Max", 1e-12).op("Sqrt")).to(np.int64).op("Max", 1)
    # The crop's middle, and how far about it the photo is seen; rows before columns, as in the photo.
    u, v = (size - 1) / 2 - x, (size - 1) / 2 - y
    middle = b.concat(a * v - c * u, d * u - b_ * v, axis=1) / determinant
    reach = size * b.concat(a.op("Abs") + c.op("Abs"), b_.op("Abs") + d.op("Abs"), axis=1) / 2 / scale
    limit = photo.op("Shape", dtype=np.int64, start=0, end=2)
    low = ((middle - reach).op("Floor").to(np.int64) - 2 * step).op("Max", 0).op("Min", limit - 1)
    high = ((middle + reach).op("Ceil").to(np.int64) + 2 * step).op("Max", low + 1).op("Min", limit)
    high = (low + ((high - low) / step).op("Max", 1) * step).op("Min", limit)
    cell = step.op("Min", high - low)
    shrunk = step >= 2

    # The maps from what OpenCV is given: the part where the photo is shrunk, else the photo, of which it is a part.
    given = b.where(shrunk, low, low * 0)
    times = step.to(np.float64)
    down, across = (given.to(np.float64) + (times - 1) / 2).split(2, axis=1)
    columns = [a * times, c * times, b_ * times, d * times, a * across + b_ * down + x, c * across + d * down + y]
    from_image, offset = b.concat(*columns, axis=1).reshape(-1, 3, 2), low - given
    starts, slopes = sampled(from_image, size)
    upright = (b_.op("Abs") + c.op("Abs")).op("Equal", 0, dtype=np.bool_)

    def one(index: Value) -> tuple[list[Value], list[tuple[Value, Sequence[int]]]]:
        start, end = low[index], high[index]

        def part() -> Value:
            return photo.op("Slice", start, end, np.array([0, 1]))

        image = b.choose(shrunk[index], lambda: averaged(part(), (end - start) / cell[index], cell[index]), part)
        way = image, starts[index], slopes[index], offset[index], size
        return [], [(b.choose(upright[index], lambda: bilinear_upright(*way), lambda: bilinear(*way)), (size, size, 3))]

    return b.loop(_number(maps), [], one)[0]


def averaged(part: Value, cells: Value, cell: Value) -> Value:
    """Means over cells of pixels, uint8: down as a product of bytes, then along the rows."""
    (down, across), (high, wide) = cells.split(2), cell.split(2)
    b, one = part.builder, np.array([1])
    ones = b.op("Expand", np.ones((1, 1, 1), np.uint8), b.concat(down, one, high))
    columns = ones.op("MatMulInteger", part.reshape(down, high, -1), dtype=np.int32)
    total = columns.reshape(-1, wide, 3).sum(1).reshape(down, across, 3).to(np.float32)
    pixels = high * wide
    share = (1 / pixels.to(np.float64)).to(np.float32)  # ONNX Runtime's division in float32 may be one bit off
    upwards = pixels.op("Equal", 4, dtype=np.bool_).to(np.float32) / 8  # halves of two by two go up, others to even
    return (total * share + upwards).op("Round").to(np.uint8)


def sampled(maps: Value, size: int) -> tuple[Value, Value]:
    """Where ``cv2.warpAffine`` samples an image, row and column of each: of a crop's rows (N, 2, size, 1) the starts,
    float32, and from there (N, 2, 1, size), float64, by column.

    It adds in float32 the parts of a coordinate that belong to the row, and then the column's, in one rounding, which
    is written here as float64 that becomes float32.

    Args:
        maps: (N, 3, 2) float64, columns of the maps to the crop.
        size: side of the crop.
    """
    steps = np.arange(size, dtype=np.float64)
    a, c, b, d, x, y = maps.reshape(-1, 6).split(6, axis=1)
    inverse = 1 / (a * d - b * c)
    a, b, c, d = d * inverse, b * -inverse, c * -inverse, a * inverse
    join = maps.builder.concat
    along, beside = (join(*pair, axis=1).reshape(-1, 2, 1, 1).to(np.float32) for pair in ((c, a), (d, b)))
    shift = join(-(c * x) - d * y, -(a * x) - b * y, axis=1).reshape(-1, 2, 1, 1).to(np.float32)
    return beside * steps.reshape(size, 1) + shift, along.to(np.float64) * steps


def bilinear(image: Value, starts: Value, slopes: Value, offset: Value, size: int) -> Value:
    """What ``cv2.warpAffine`` makes of an image (H, W, 3), (size, size, 3) uint8, to the last bit.

    That matters because 8-bit networks are not smooth: one grey level in a few pixels can move a point by 0.1 px. So
    coordinates are rounded where OpenCV rounds them.

    Args:
        image: uint8.
        starts, slopes: of one crop, see :func:`sampled`.
        offset: int64 (2,), row and column of the image's first pixel in what the map takes.
        size: side of the crop.
    """
    b = image.builder
    image, sides = _bordered(image)
    at, shares = _clamped((starts.to(np.float64) + slopes).to(np.float32).reshape(2, size**2), sides, offset)
    # A Gather takes as long for two neighbours as for one pixel. Rows have even numbers of pixels; first come the
    # pairs that begin at even columns.
    flat = image.reshape(-1)
    pairs = b.concat(flat, flat.op("Pad", np.array([-3, 3]))).reshape(-1, 6)
    half = sides.to(np.float32) / 2
    row, column = at.split(2)
    even = (column / 2).op("Floor")
    index = row * half[[1]] + even + (column - even * 2) * (half[[0]] * sides[[1]].to(np.float32))
    index = b.concat(index, index + half[[1]], axis=1).to(np.int32).reshape(2 * size**2)  # exact below 2^24
    left, right = pairs[index].transpose(1, 0).to(np.float32).reshape(2, 3, 2, size**2).split(2)
    down, across = shares.split(2)
    upper, lower = _between(left, right, across).split(2, axis=2)
    value = _between(upper, lower, down).reshape(3, size**2)
    whole, pixel = _rounded(value, 0)
    at, shares = (values.op("Gather", pixel.reshape(-1), axis=1) for values in (at, shares))
    return _settled(whole.transpose(1, 0), pixel.reshape(-1, 1), image, at, shares).reshape(size, size, 3)


def bilinear_upright(image: Value, starts: Value, slopes: Value, offset: Value, size: int) -> Value:
    """:func:`bilinear` by a map that does not turn the photo, which is the box's: rows first, then columns."""
    b = image.builder
    image, sides = _bordered(image)
    columns = (starts[1][[0]].to(np.float64) + slopes[1]).to(np.float32)
    at, shares = _clamped(b.concat(starts[0].reshape(1, size), columns), sides, offset)
    row, column = (part.reshape(size) for part in at.to(np.int32).split(2))
    down, across = (part.reshape(size, 1) for part in shares.split(2))
    lines = image.to(np.float32).reshape(sides[[0]], -1)
    lines = _between(lines[row], lines[row + 1], down).transpose(1, 0).reshape(sides[[1]], 3 * size)
    whole, place = _rounded(_between(lines[column], lines[column + 1], across).reshape(size, 3, size), 1)
    x, y = (part.reshape(-1) for part in place.split(2))
    pixels = whole.reshape(3 * size, size).transpose(1, 0).reshape(size**2, 3)
    at, shares = (
        b.concat(*(v.reshape(-1)[i].reshape(1, -1) for v, i in zip(values.split(2), (y, x), strict=True)))
        for values in (at, shares)
    )
    return _settled(pixels, (y * size + x).reshape(-1, 1), image, at, shares).reshape(size, size, 3)


def _bordered(image: Value) -> tuple[Value, Value]:
    """The image with the two pixels of border that stand for what lies beyond, its width made even; and its sides."""
    sides = image.op("Shape", dtype=np.int64, start=0, end=2)
    odd = sides[[1]].op("Mod", 2)
    none, two = (np.array(values, np.int64) for values in ([0], [2, 2, 0, 2]))
    image = image.op("Pad", image.builder.concat(two, odd + 2, none))
    return image, image.op("Shape", dtype=np.int64, start=0, end=2)


def _clamped(at: Value, sides: Value, offset: Value) -> tuple[Value, Value]:
    """Of rows and columns (2, M): those of the pixel before each, in the image with its border, and the shares of the
    pixel after it."""
    first = at.op("Floor")
    inside = (first - (offset - 2).to(np.float32).reshape(2, 1)).op("Max", 0)
    return inside.op("Min", (sides - 2).to(np.float32).reshape(2, 1)), at - first


def _rounded(value: Value, axis: int) -> tuple[Value, Value]:
    """As uint8, and where one along the axis of colours is so near to a half that the last bit decides."""
    whole = value.op("Round")
    apart = (value - whole).op("Abs").op("ReduceMax", np.array([axis]), keepdims=0)
    return whole.to(np.uint8), (apart > 0.5 - 1e-4).op("NonZero", dtype=np.int64)


def _settled(pixels: Value, places: Value, image: Value, at: Value, shares: Value) -> Value:
    """Pixels (M, 3) uint8, those at ``places`` (K, 1) as OpenCV has them: it rounds product and sum once, not twice."""
    b, wide = image.builder, image.op("Shape", dtype=np.int64, start=1, end=2)
    row, column = (part.reshape(-1) for part in at.to(np.int64).split(2))
    down, across = (part.reshape(-1, 1) for part in shares.to(np.float64).split(2))
    flat, index = image.reshape(-1, 3), row * wide + column
    taps = [flat[i].to(np.float64) for i in (index, index + 1, index + wide, index + (wide + 1))]
    upper, lower = (_between(taps[i], taps[i + 1], across).to(np.float32) for i in (0, 2))
    step = (lower - upper).to(np.float64)
    exact = (down * step + upper.to(np.float64)).to(np.float32).op("Round").to(np.uint8)
    return b.op("ScatterND", pixels, places, exact)


def _between(first: Value, second: Value, share: Value) -> Value:
    return share * (second - first) + first


# --- Shapes, as in facemsm.shapes.posterior and facemsm.shapes.reconstruction ----------------------------------------


def yaw_proxy(points: Value, scheme: LandmarkScheme) -> Value:
    """(N, 1, 1) of points (N, 2, L)."""
    between = np.zeros((scheme.count, 1))
    for corner, sign in zip(scheme.outer_eye_corners, (1, -1), strict=True):
        between[list(corner)] += sign / len(corner)
    extent = points.op("ReduceMax", np.array([2]), keepdims=1) - points.op("ReduceMin", np.array([2]), keepdims=1)
    width, height = extent.split(2, axis=1)
    eyes, area = (points @ between).op("ReduceL2", np.array([1]), keepdims=1), (width * height).op("Max", 1e-12)
    return -(eyes / area.op("Sqrt")).clip(0.05, 1).op("Log")


def observation_covariance(
    points: Value, scores: Value, spread: Value, noise: Noise, scheme: LandmarkScheme
) -> tuple[Value, Value, Value]:
    """xx, xy and yy, (N, 1, L) each, of spreads (N, 3, L)."""
    a, b, c = noise
    turn = (yaw_proxy(points, scheme) - FRONTAL).clip(0, 0.5)
    gain = (a + b * (1 - scores) - c * turn).op("Exp")
    floors = np.array([[SPREAD_FLOOR], [0], [SPREAD_FLOOR]])
    empty = np.array([[EMPTY_VARIANCE], [0], [EMPTY_VARIANCE]])
    xx, xy, yy = points.builder.where(scores > 0, gain * (spread + floors), empty).split(3, axis=1)
    return xx, xy, yy


def posterior(points: Value, covariance: tuple[Value, Value, Value], prior: ShapePrior) -> tuple[Value, Value, Value]:
    """Points (N, 2, L), variance and mahalanobis (N, 1, L)."""
    b, count = points.builder, len(prior.mean)
    mean, modes, residual = prior.exact
    flat, own = _whitened(modes.transpose(1, 0, 2).reshape(2 * count, -1))
    other = np.roll(np.arange(2 * count), count)  # y of a point in place of x, and x in place of y
    observed = (points - mean.T).reshape(-1, 2 * count, 1)

    def swapped(values: Value) -> Value:
        return values.op("Gather", other, axis=1)

    def given(xx: Value, xy: Value, yy: Value) -> tuple[Value, ...]:
        """What the observations and their covariance say."""
        xx, yy = xx + residual, yy + residual
        determinant = xx * yy - xy * xy
        along = b.concat(yy / determinant, xx / determinant, axis=2).reshape(-1, 2 * count, 1)
        across = -(xy / determinant)
        across = b.concat(across, across, axis=2).reshape(-1, 2 * count, 1)
        weighted = along * flat + across * flat[other]
        inverse = _inverse(flat.T @ weighted + own, len(own))
        z = inverse @ (flat.T @ (along * observed + across * swapped(observed)))
        off = observed - flat @ z
        pull = along * off + across * swapped(off)
        return along, weighted, inverse, off, pull, (off * pull).reshape(-1, 2, count).sum(1)

    weights = (FREEDOM + 2) / (FREEDOM + given(*covariance)[-1])
    along, weighted, inverse, off, pull, mahalanobis = given(*(value / weights for value in covariance))
    both = np.tile(residual, 2)[:, None]
    found = points - (off - both * pull).reshape(-1, 2, count)
    kept = flat - both * weighted
    variance = (kept @ inverse * kept).sum(2) + both - both**2 * along
    return found, variance.reshape(-1, 2, count).sum(1) / 2, mahalanobis


def _whitened(flat: Array) -> tuple[Array, Array]:
    """Modes in a basis in which the precision of z, given ordinary observations, is the identity; and the precision of
    z given none, which is the identity in the basis of before."""
    values, vectors = np.linalg.eigh(np.eye(flat.shape[1]) + _TYPICAL_PRECISION * flat.T @ flat)
    basis = vectors / np.sqrt(values)
    return flat @ basis, basis.T @ basis


def _inverse(matrix: Value, side: int) -> Value:
    """Of symmetric matrices (N, side, side) of positive eigenvalues, by Newton's iteration (Schulz, 1933)."""
    largest = matrix.op("Abs").sum(1).op("ReduceMax", np.array([2]), keepdims=1)  # no eigenvalue is larger
    inverse = np.eye(side) / largest
    for _ in range(_INVERSE_STEPS):
        inverse = inverse @ (2 * np.eye(side) - matrix @ inverse)
    return inverse


def relative_scores(scores: Value) -> Value:
    """Shares of the face's best score."""
    best = scores.op("ReduceMax", np.array([-1]), keepdims=1)
    return scores / scores.builder.where(best > 0, best, 1)


def reconstruct(
    points: Value,
    scores: Value,
    dictionary: ShapeDictionary,
    settings: Reconstruction,
    thresholds: Operand | None = None,
) -> tuple[Value, Value]:
    """Points (2, L), and which of them were rebuilt (1, L); ``thresholds`` (1, L) in place of the settings'."""
    b, scheme = points.builder, dictionary.scheme
    relative = relative_scores(scores)
    if thresholds is None:
        thresholds = np.full((1, scheme.count), settings.feature_threshold)
        thresholds[:, list(scheme.contour)] = settings.contour_threshold
    above = relative > thresholds
    minimum = int(np.ceil(settings.minimum_reliable * scheme.count))
    best, _ = b.ops("TopK", relative, b.value(np.array([minimum])), outputs=2, axis=1)
    last = best.op("ReduceMin", keepdims=1)
    enough = above.to(np.int32).sum(1) >= minimum
    reliable = b.op("Or", enough & above, enough.op("Not") & (relative >= last) & (relative > 0))
    rebuilt = reliable.op("Not") & (reliable.to(np.int32).op("ReduceMax", keepdims=1) > 0)

    # from here on in float64, and x of all points before y of all
    seen = reliable.to(np.float64)
    visible = b.concat(seen, seen).reshape(2 * scheme.count, 1)
    target = (points.to(np.float64) - dictionary.centre).reshape(2 * scheme.count, 1) * visible
    basis = _nearest_aligned(target, seen.transpose(1, 0), dictionary, count := min(settings.k, len(dictionary.shapes)))
    origin = basis.op("ReduceMean", np.array([0]), keepdims=1)
    basis = basis - origin
    fitted = basis * visible.transpose(1, 0)
    ridge = settings.ridge * (dictionary.size / 128) ** 2
    alpha = _solution(
        fitted @ fitted.transpose(1, 0) + ridge * np.eye(count), fitted @ (target - origin.transpose(1, 0))
    )
    shape = (origin + alpha.transpose(1, 0) @ basis).reshape(2, scheme.count) + dictionary.centre
    return b.where(rebuilt, shape.to(np.float32), points), rebuilt


def _nearest_aligned(target: Value, seen: Value, dictionary: ShapeDictionary, k: int) -> Value:
    """(k, 2L): exemplars mapped to the reliable points (2L, 1) by a similarity each, those that then are nearest."""
    b = target.builder
    x, y = dictionary.rows[:, ::2], dictionary.rows[:, 1::2]
    count = seen.sum(0)
    (middle_x, middle_y), (face_x, face_y) = ([part.sum(0) / count for part in target.split(2)], target.split(2))
    face_x, face_y = seen * (face_x - middle_x), seen * (face_y - middle_y)
    mean_x, mean_y = x @ (seen / count), y @ (seen / count)
    square = (x**2 + y**2) @ seen - count * (mean_x * mean_x + mean_y * mean_y)
    fits = square > TINY
    divisor = b.where(fits, square, 1)
    real = b.where(fits, (x @ face_x + y @ face_y) / divisor, 1)
    imaginary = b.where(fits, (x @ face_y - y @ face_x) / divisor, 0)
    gained = (real * real + imaginary * imaginary) * square
    _, nearest = b.ops("TopK", gained.reshape(-1), b.value(np.array([k])), outputs=2)
    real, imaginary, mean_x, mean_y = (v.op("Gather", nearest, axis=0) for v in (real, imaginary, mean_x, mean_y))
    off_x, off_y = b.op("Gather", x, nearest, axis=0) - mean_x, b.op("Gather", y, nearest, axis=0) - mean_y
    return b.concat(real * off_x - imaginary * off_y + middle_x, real * off_y + imaginary * off_x + middle_y, axis=1)


def _solution(matrix: Value, right: Value) -> Value:
    """Of a system with a symmetric matrix of positive eigenvalues, by conjugate gradients."""
    b = matrix.builder

    def step(_: Value, x: Value, rest: Value, direction: Value, square: Value) -> tuple[list[Value], list[Any]]:
        along = matrix @ direction
        length = square / (direction * along).sum(0).op("Max", 1e-300)
        x, rest = x + length * direction, rest - length * along
        after = (rest * rest).sum(0)
        return [x, rest, rest + after / square.op("Max", 1e-300) * direction, after], []

    return b.loop(b.value(np.array(_SOLUTION_STEPS)), [right * 0, right, right, (right * right).sum(0)], step)[0]


# --- Confidence, as in facemsm.confidence.model ----------------------------------------------------------------------


def detail(crops: Value, size: int) -> tuple[Value, Value]:
    """Logs of how much fine and coarse detail crops (N, S, S, 3) show, (N, 1, 1) each, rounded where OpenCV rounds."""
    grey = (crops.to(np.float32) @ (np.array([[9798], [19235], [3735]]) / 2**15)).reshape(-1, 1, size, size)
    whole = (grey + 0.5).op("Floor")
    half, quarter = (whole.op("AveragePool", kernel_shape=[n, n], strides=[n, n]) for n in (2, 4))
    half, quarter = (half + 0.5).op("Floor"), quarter.op("Round")
    images = [image.reshape(-1, size // n, size // n) for n, image in ((1, whole), (2, half), (4, quarter))]
    fine, coarse = (_lost(images[i], images[i + 1], size // n) for i, n in ((0, 2), (1, 4)))
    return fine, coarse


def _lost(images: Value, halves: Value, side: int) -> Value:
    """Of images and those of half their sides, doubled again: three parts of the near pixel, one of the far."""
    at = np.arange(2 * side)
    near, far = at // 2, np.clip(at // 2 + np.where(at % 2, 1, -1), 0, side - 1)
    doubled = halves.op("MatMul", ((3 * np.eye(side)[near] + np.eye(side)[far]) / 4).T)
    near_rows, far_rows = (
        part.op("Floor").op("Gather", rows, axis=1) for part, rows in ((3 * doubled, near), (doubled, far))
    )
    doubled = ((near_rows + far_rows + 2) / 4).op("Floor")
    return (images - doubled).op("Abs").op("ReduceMean", np.array([1, 2]), keepdims=1).op("Max", FLAT).op("Log")


def describe(
    points: Value,
    scores: Value,
    spread: Value,
    details: tuple[Value, Value],
    found: tuple[Value, Value, Value],
    prior: ShapePrior,
    scheme: LandmarkScheme,
) -> Value:
    """``FEATURES`` (N, F, L)."""
    b, (at, variance, mahalanobis), (fine, coarse) = points.builder, found, details
    xx, _, yy = spread.split(3, axis=1)
    near, around = neighbour_shares(prior, NEAR).T, neighbour_shares(prior, AROUND).T
    doubt, width, turned = 1 - scores, (xx + yy).op("Max", EMPTY_SPREAD).op("Log") / 2, yaw_proxy(at, scheme)
    doubt_near, everywhere = doubt @ near, doubt.op("ReduceMean", np.array([2]), keepdims=1)
    eyes = [doubt @ _mean_of(eye, scheme.count) for eye in (scheme.right_eye, scheme.left_eye)]
    features = {
        "uncertainty": doubt,
        "uncertainty²": doubt * doubt,
        "uncertainty near": doubt_near,
        "uncertainty around": doubt @ around,
        "uncertainty × near": doubt * doubt_near,
        "uncertainty of the face": everywhere,
        "spread": width,
        "spread near": width @ near,
        "variance": variance.op("Log") / 2,
        "moved": ((at - points).op("ReduceL2", np.array([1]), keepdims=1) + 1).op("Log"),
        "mahalanobis": (mahalanobis + 1).op("Log"),
        "turned": turned,
        "turned²": turned * turned,
        "profile": ((turned - PROFILE) / PROFILE_SLOPE).op("Sigmoid"),
        "fine detail": fine,
        "coarse detail": coarse,
        "fine detail²": fine * fine,
        "coarse detail²": coarse * coarse,
        "uncertainty of the face²": everywhere * everywhere,
        "uncertainty of an eye": eyes[0].op("Max", eyes[1]),
    }
    row = scores.op("Shape", dtype=np.int64)
    return b.concat(*(features[name].op("Expand", row) for name in FEATURES), axis=1)


def _mean_of(points: Sequence[int], count: int) -> Array:
    """(L, 1) by which a row is multiplied for the mean of some points."""
    shares = np.zeros((count, 1))
    shares[list(points)] = 1 / len(points)
    return shares


def predict(features: Value, calibration: Calibration) -> list[Value]:
    """That points are right, and that they are hidden, (N, 1, L) each."""

    def probability(model: Logistic) -> Value:
        low, high = model.limits[..., None]
        limited = features.op("Max", low).op("Min", high)
        return (features.builder.value(model.weights[None], features.dtype) @ limited + model.landmarks).op("Sigmoid")

    return [probability(calibration.correct), probability(calibration.hidden)]
