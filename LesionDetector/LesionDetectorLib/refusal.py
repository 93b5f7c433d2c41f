"""What is refused: the one family of errors that is told to the user in a sentence.

A fault of the program is none of them.
"""

from __future__ import annotations

PACKAGES = {
    **{
        name: name
        for name in ("numpy", "scipy", "pydicom", "highdicom", "matplotlib", "jinja2", "tqdm", "safetensors", "torch")
    },
    **{name: name for name in ("torchvision", "pandas", "torchmetrics", "psutil", "SimpleITK")},
    "skimage": "scikit-image",
    "PIL": "pillow",
    "faster_coco_eval": "faster-coco-eval",
    "trame_slicer": "'trame-slicer[standalone]'",
    "slicer": "slicer-core",
    "vtkmodules": "vtk",
}
"""The packages that the program needs: the name by which Python imports each, and the one by which pip knows it."""


ISSUES = "https://github.com/SlicerLesionDetector/SlicerLesionDetectorExtension/issues"
FAULT = f"This is a fault of the program: report it with the lines above at {ISSUES}"


class Refusal(ValueError):  # noqa: N818 (it is what the user reads, no fault of the program)
    """An input, a file or an option that cannot be used; the message is one sentence that says what to do next."""


def refusal(error: BaseException) -> str | None:
    """The sentence for an error that is the user's to mend: a refusal, a file, a missing package, the memory.

    None for a fault of ours.
    """
    match error:
        case Refusal():
            return str(error)
        case OSError(errno=int()):  # the operating system's word, and no library's
            return (
                f"{error.filename or 'A file'} cannot be used: {error.strerror}; check the path, its permissions and "
                "free space."
            )
        case MemoryError():
            return "It is too large for the memory: end other programs, or take a machine with more."
        case ModuleNotFoundError(name=str(name)) if package := PACKAGES.get(name.partition(".")[0]):
            return f"The Python package {package} is missing; install it with: pip install {package}"
    return None
