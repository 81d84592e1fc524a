"""What a request may ask for, as a form beside the photo or in the address."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile

from facemsm.aligner import Aligner
from facemsm.serve.answers import Extra
from facemsm.shapes.reconstruction import Reconstruction
from facemsm.stages import Settings
from facemsm.typing import Method

Coordinate = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Box = tuple[Coordinate, Coordinate, Coordinate, Coordinate]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]

_BOXES = TypeAdapter(list[Box])
_THRESHOLD = "With the paper's method, the share of the face's best score that a landmark has to exceed to be kept: "


class Options(BaseModel):
    """All that may be said of a photo."""

    model_config = ConfigDict(extra="forbid")

    boxes: str | None = Field(
        None,
        description="Faces as JSON, `[[x_min, y_min, x_max, y_max], ...]`; they are looked for if left out.",
    )
    model: str | None = Field(None, description="Name of the weights; `/api/model` lists them.")
    method: Method | None = Field(
        None,
        description="`calibrated`: every landmark is weighed by how surely it is seen, scores are probabilities. "
        "`paper`: landmarks with low scores are rebuilt from the others.",
    )
    contour: Share | None = Field(None, description=_THRESHOLD + "on the face's outline.")
    features: Share | None = Field(None, description=_THRESHOLD + "all other landmarks.")
    any_rotation: bool | None = Field(
        None,
        description="Whether the photo may lie on its side or head: faces are looked for in all four orientations. By "
        "default what --any-rotation says.",
    )
    min_score: Share | None = Field(
        None,
        description="Faces that are found and have a lower score are left out; by default those that --min-score says.",
    )
    include: list[Extra] = Field([], description="What else to return for every face.")

    def given_boxes(self, most: int) -> list[Box] | None:
        """The boxes, None if the faces are to be looked for.

        Raises:
            HTTPException: 422, not boxes, in shares of the photo, or more than ``most``.
        """
        if self.boxes is None:
            return None
        try:
            boxes = _BOXES.validate_json(self.boxes)
        except ValidationError as error:
            raise HTTPException(422, first_problem(error.errors(include_input=False), "boxes")) from error
        if len(boxes) > most:
            raise HTTPException(422, f"boxes: {len(boxes)} are above the limit of {most}")
        if boxes and all(0 <= number <= 1 for box in boxes for number in box):
            raise HTTPException(422, "boxes: numbers from 0 to 1 look like shares of the photo; give pixels")
        return boxes

    def settings(self, aligner: Aligner) -> Settings:
        """The settings of this request: its own, and the aligner's for what it leaves out.

        Raises:
            HTTPException: 422, a method that the weights do not have, or a threshold for one that has none.
        """
        method = self.method or aligner.method
        if method == "calibrated" and not aligner.model.calibration:
            raise HTTPException(422, "method: these weights are not calibrated; ask for paper, or leave it out")
        given = {"contour": self.contour, "features": self.features}
        thresholds = {name: value for name, value in given.items() if value is not None}
        if thresholds and method != "paper":
            raise HTTPException(
                422, f"{next(iter(thresholds))}: is for method=paper only; send that too, or leave it out"
            )
        reconstruction = Reconstruction.with_thresholds(thresholds, aligner.settings.reconstruction)
        own = aligner.settings
        any_rotation = own.any_rotation if self.any_rotation is None else self.any_rotation
        return replace(own, method=method, reconstruction=reconstruction, any_rotation=any_rotation)


_PHOTO = {"type": "string", "format": "binary", "description": "A JPEG, PNG or WebP file."}
_OPTIONS = Options.model_json_schema()
FORM = {
    "type": "object",
    "title": "Form",
    "properties": {"photo": _PHOTO, **_OPTIONS["properties"]},
    "required": ["photo"],
}

BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": FORM},
        **{kind: {"schema": _PHOTO} for kind in ("image/jpeg", "image/png", "image/webp", "application/octet-stream")},
    },
}
"""The request's body as its description shows it."""


async def read_request(request: Request, options: Options) -> tuple[bytes, Options]:
    """The photo and what is asked for: a form with both, or the photo alone as the body.

    Args:
        request: its body is read whole; the guard keeps it small.
        options: those in the address; a form's go before them.

    Raises:
        HTTPException: 400 or 422, the form cannot be read, has no photo, or a field is wrong.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":  # whatever it is called: curl --data-binary calls it a form
        return await request.body(), options
    try:
        form = await request.form()
    except FormParserError as error:
        raise HTTPException(400, f"the form cannot be read: {error}") from error
    photo = form.get("photo")
    if not isinstance(photo, UploadFile):
        raise HTTPException(422, "photo: is missing, or no file; send -F photo=@photo.jpg")
    data = await photo.read()
    fields: dict[str, Any] = {name: form.getlist(name) if name == "include" else form[name] for name in form}
    await form.close()
    del fields["photo"]
    try:
        return data, Options.model_validate({**options.model_dump(exclude_unset=True), **fields})
    except ValidationError as error:
        raise HTTPException(422, first_problem(error.errors(include_input=False))) from error


def first_problem(errors: Any, *where: str) -> str:
    """One line for the first field that is wrong, without repeating what was sent."""
    first = errors[0]
    return f"{'.'.join(map(str, (*where, *first['loc']))) or 'body'}: {first['msg']}"
