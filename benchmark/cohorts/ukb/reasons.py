"""Why a file is refused or a person left out, and what is odd about a file that is accepted."""

from __future__ import annotations

import enum


class Reason(enum.StrEnum):
    """Why a file is refused or a person left out: one member per line of the exclusion report."""

    # People.
    WITHDRAWN = "withdrew consent"
    NO_ECG = "no resting ECG file"
    NO_CMR = "no cine CMR file"
    NO_SAME_VISIT = "ECG and CMR never at the same visit"
    NOT_IN_TABLE = "not in the tables"
    NO_COVARIATES = "age or sex missing"
    NO_LONG_AXIS = "no long-axis cine file"
    NO_HEART = "no heart found in the images"
    NO_SEGMENTATION = "no segmentation beside the images"
    NO_CONTOURS = "no InlineVF contours in the zip"
    NO_SIGNAL = "images without signal"

    # Any file.
    UNREADABLE = "file cannot be opened"
    UNEXPECTED = "reading failed in a way nobody thought of"
    EMPTY_FILE = "file is empty"
    TOO_LARGE = "file is larger than any genuine one"

    # Resting ECG (CardioSoft XML).
    XML_MALFORMED = "XML is malformed"
    XML_DTD = "XML declares a document type or entities"
    XML_ENCODING = "XML is not in the encoding it declares"
    NOT_CARDIOSOFT = "XML is not a CardioSoft file"
    NOT_RESTING = "not a resting ECG"
    NO_STRIP = "ECG file without the ten-second strip"
    WRONG_RATE = "ECG not sampled at 500 Hz"
    WRONG_RESOLUTION = "ECG resolution missing or not in uV"
    MISSING_LEAD = "ECG lead missing"
    DUPLICATE_LEAD = "ECG lead twice"
    WRONG_LENGTH = "ECG lead without exactly 5,000 samples"
    NOT_NUMERIC = "ECG sample is not a number"
    NOT_FINITE = "ECG sample is not finite"
    FLAT_LEAD = "ECG lead is constant"
    IMPLAUSIBLE_AMPLITUDE = "ECG beyond 50 mV"

    # Zip of DICOM files.
    ZIP_DAMAGED = "zip is damaged or truncated"
    ZIP_ENCRYPTED = "zip is encrypted"
    ZIP_METHOD = "zip member is compressed by an unknown method"
    ZIP_UNSAFE_NAME = "zip member's name leads out of its folder"
    ZIP_DUPLICATE_NAME = "two zip members of one name"
    ZIP_SYMLINK = "zip member is a link"
    ZIP_TOO_MANY = "zip has more members than any genuine one"
    ZIP_TOO_LARGE = "zip unpacks to more than any genuine one"
    ZIP_BOMB = "zip member is compressed beyond any image"
    ZIP_WITHOUT_DICOM = "zip without DICOM files"

    # DICOM.
    DICOM_DAMAGED = "DICOM file is damaged"
    DICOM_COMPRESSED = "DICOM pixels are compressed by a method not read here"
    DICOM_TOO_LARGE = "DICOM image is larger than any genuine one"
    DICOM_PIXEL_FORMAT = "DICOM pixels are not one unsigned 16-bit grey value"
    DICOM_MULTIFRAME = "DICOM file holds several frames"
    DICOM_NO_PIXELS = "DICOM file of a cine series without an image"
    NO_SERIES_DESCRIPTION = "DICOM series is not named, nor does a manifest name it"
    NO_CARDIAC_TAGS = "DICOM series is not gated by the ECG"
    NO_GEOMETRY = "image without usable position, orientation or pixel spacing"

    # Cine, from DICOM or NIfTI.
    NO_CINE = "no cine series of this view"
    ONLY_INLINE_VF = "only the scanner's result images (InlineVF), no cine series"
    NOT_A_CINE = "not a series of frames over the heart beat"
    MISSING_FRAMES = "more than two frames of a slice missing"
    SURPLUS_FRAMES = "more frames of a slice than its header states"
    IRREGULAR_FRAMES = "frames of a slice are not evenly spaced in time"
    FEW_SLICES = "fewer than six slices"
    BROKEN_STACK = "slices missing or overlapping within the stack"
    SLICES_DIFFER = "slices differ in size, pixels, frames or orientation"
    PIXELS_NOT_SQUARE = "pixels are not square"

    # NIfTI.
    NO_NIFTI = "no NIfTI file of this view"
    NIFTI_DAMAGED = "NIfTI file is damaged"
    NIFTI_VALUES = "NIfTI values are not finite real numbers"
    SEGMENTATION_MISMATCH = "segmentation does not fit its image"
    SEGMENTATION_LABELS = "segmentation has labels other than 0 to 3"


class Flag(enum.StrEnum):
    """What is odd about an accepted file."""

    POOR_QUALITY = "the device calls the ECG's quality poor"
    RESAMPLED_FRAMES = "another number of frames, resampled over the heart beat"
    FILLED_FRAME = "missing frame filled with the one before"
    REPEATED_SERIES = "slice acquired more than once"
    MERGED_SERIES = "several slices or views in one series"
    SERIES_NUMBER_GAP = "series numbers not contiguous"
    UNEVEN_SLICES = "distances between slices vary"
    NAMED_BY_MANIFEST = "series named by the manifest only"
    UNKNOWN_MEMBER = "zip member that is neither DICOM nor manifest"
    ORDER_DISPUTED = "images and geometry disagree which end is the apex"


class Refused(Exception):  # noqa: N818 - no error of the program: a file is refused
    """A file that is not used.

    Parameters
    ----------
    reason
        What is counted.
    detail
        What a private log may add: never an id, a path or content of the file.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)  # both as args: it has to survive a process pool's pickle
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else str(self.reason)
