"""One DICOM file of a cine: its tags, its place in the body and its pixels."""

from __future__ import annotations

import functools
import io
import math

import numpy as np

from benchmark.cohorts.ukb.reasons import Reason, Refused

MAX_IMAGE_PIXELS = 1 << 20

EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
DEFLATED = b"1.2.840.10008.1.2.1.99"

KEYWORDS = (
    "SOPInstanceUID",
    "SeriesDescription",
    "SeriesInstanceUID",
    "SeriesNumber",
    "InstanceNumber",
    "AcquisitionDate",
    "AcquisitionTime",
    "TriggerTime",
    "NominalInterval",
    "CardiacNumberOfImages",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "PixelData",
)
OVERLAY = 0x6000
OVERLAY_TAGS = tuple(
    OVERLAY << 16 | element
    for element in (0x0010, 0x0011, 0x0015, 0x0040, 0x0050, 0x0100, 0x0102, 0x3000)
)


@functools.cache
def _tags() -> dict[int, str]:
    from pydicom.datadict import tag_for_keyword

    return {tag_for_keyword(keyword): keyword for keyword in KEYWORDS}


class DicomImage:
    """One DICOM file: the values that are needed, as the file holds them.

    pydicom would convert each, which takes longer than reading the file, and fail on damaged ones
    in as many ways as there are types.

    Raises
    ------
    Refused
        For a file that cannot be parsed, or whose content would have to be inflated.
    """

    def __init__(self, content: bytes) -> None:
        import pydicom

        if DEFLATED in content:
            raise Refused(Reason.DICOM_COMPRESSED)  # pydicom would inflate it without a limit
        tags = _tags()
        try:
            wanted = [*tags, *OVERLAY_TAGS]
            self.dataset = pydicom.dcmread(io.BytesIO(content), specific_tags=wanted)
            self.syntax = str(self.dataset.file_meta.TransferSyntaxUID)
            self._values = {
                tags[int(element.tag)]: element.value
                for element in self.dataset.values()
                if int(element.tag) in tags and isinstance(element.value, bytes)
            }
        except MemoryError:
            raise
        except Exception as error:  # of any type: pydicom's own, struct's, AttributeError ...
            raise Refused(Reason.DICOM_DAMAGED, type(error).__name__) from None

    def bytes(self, keyword: str) -> bytes:
        """Return a value as the file holds it, empty without one."""
        return self._values.get(keyword, b"")

    def text(self, keyword: str) -> str:
        """Return a string without its padding, empty without one."""
        return self.bytes(keyword).decode("latin-1").strip(" \0")

    def numbers(self, keyword: str, count: int) -> list[float] | None:
        """Return a decimal string's numbers, None unless there are so many finite ones."""
        try:
            numbers = [float(part) for part in self.text(keyword).split("\\")]
        except ValueError:
            return None
        return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None

    def number(self, keyword: str) -> float | None:
        """Return a decimal string's only number."""
        numbers = self.numbers(keyword, 1)
        return None if numbers is None else numbers[0]

    def short(self, keyword: str) -> int:
        """Return an unsigned short, 0 without one."""
        order = "big" if self.syntax == EXPLICIT_BIG else "little"
        return int.from_bytes(self.bytes(keyword)[:2], order)

    def overlay(self, shape: tuple[int, int]) -> np.ndarray | None:
        """Return the graphics drawn over the image, (rows, columns) bool; None without any."""
        if OVERLAY_TAGS[-1] not in self.dataset:
            return None
        try:
            plane = self.dataset.overlay_array(OVERLAY)
        except MemoryError:
            raise
        except Exception:  # of any type, as above; the images themselves need no graphics
            return None
        return plane.astype(bool) if plane.shape == shape else None


def geometry(image: DicomImage) -> tuple[np.ndarray, np.ndarray]:
    """Return where the first pixel is, (3,) mm, and where columns and rows count to, (2, 3)."""
    position = image.numbers("ImagePositionPatient", 3)
    axes = image.numbers("ImageOrientationPatient", 6)
    if position is None or axes is None:
        raise Refused(Reason.NO_GEOMETRY)
    position, axes = np.array(position), np.array(axes).reshape(2, 3)
    if np.abs(axes @ axes.T - np.eye(2)).max() > 0.01 or np.abs(position).max() > 10_000:
        raise Refused(Reason.NO_GEOMETRY)
    return position, axes


def shape_of(image: DicomImage) -> tuple[int, int]:
    """Return rows and columns of an image whose pixels can be decoded safely."""
    pixels = len(image.bytes("PixelData"))
    rows, columns = image.short("Rows"), image.short("Columns")
    if not (pixels and rows and columns):
        raise Refused(Reason.DICOM_NO_PIXELS)
    if rows * columns > MAX_IMAGE_PIXELS:
        raise Refused(Reason.DICOM_TOO_LARGE)
    if image.text("NumberOfFrames") not in ("", "1"):
        raise Refused(Reason.DICOM_MULTIFRAME)
    allocated, stored = image.short("BitsAllocated"), image.short("BitsStored")
    if image.short("SamplesPerPixel") != 1 or allocated != 16 or not 1 <= stored <= 16:
        raise Refused(Reason.DICOM_PIXEL_FORMAT)
    return rows, columns


def decode(image: DicomImage, target: np.ndarray) -> None:
    """Write an image's intensities, as stored, to an array of its shape."""
    content = image.bytes("PixelData")
    if image.syntax in (EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG):
        if len(content) != 2 * target.size:
            raise Refused(Reason.DICOM_DAMAGED, "pixel data of a wrong length")
        order = ">u2" if image.syntax == EXPLICIT_BIG else "<u2"
        pixels = np.frombuffer(content, order).reshape(target.shape)
    elif image.syntax == RLE:
        pixels = _decode_rle(image, content, target)
    else:
        # Codecs in C for JPEG and its kin are left out on purpose: no genuine file needs them.
        raise Refused(Reason.DICOM_COMPRESSED)
    stored = image.short("BitsStored")
    if image.short("PixelRepresentation") and (pixels >> (stored - 1)).any():
        raise Refused(Reason.DICOM_PIXEL_FORMAT, "negative")
    # Above the stored bits some scanners keep graphics.
    np.bitwise_and(pixels, (1 << stored) - 1, out=target)


def _decode_rle(image: DicomImage, content: bytes, target: np.ndarray) -> np.ndarray:
    if len(content) > 4 * target.size + 1024:  # longer than uncompressed: made to take long
        raise Refused(Reason.DICOM_DAMAGED, "pixel data of a wrong length")
    try:
        pixels = image.dataset.pixel_array
    except MemoryError:
        raise
    except Exception as error:  # of any type, as above
        raise Refused(Reason.DICOM_DAMAGED, type(error).__name__) from None
    if pixels.shape != target.shape or pixels.dtype.itemsize != 2:
        raise Refused(Reason.DICOM_DAMAGED, "pixel data of a wrong length")
    return pixels.view(np.uint16)
