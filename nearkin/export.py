"""The model of a run as an ONNX file, for programs that have neither PyTorch nor nearkin.

Shape key: n = pictures, any number of them; size = side of the square that the model sees; D = embedding size.
"""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

from nearkin.data import Preprocessing
from nearkin.embed import METRIC, Model, Network, load
from nearkin.errors import InputError
from nearkin.files import write_file
from nearkin.models.weights import first_line

LIMIT = 2_000_000_000
"""Bytes of weights: protobuf ends at 2 GiB, and the graph needs some of it."""

FITS = {
    "squash": "resize to {0} x {0} pixels, whatever the aspect ratio",
    "crop": "cut out the central square, as wide as the shorter side, and resize it to {0} x {0} pixels",
    "pad": "resize so that the longer side has {0} pixels, and put it in the middle of {0} x {0} white pixels",
}


def export_onnx(run: str | Path, file: str | Path) -> None:
    """Write the model of a run's folder as one ONNX file, whole or not at all.

    Its input `images` is uint8 (n, 3, size, size), RGB in 0 to 255: what `Preprocessing` makes of pictures, its centre
    already cut out. Its output `embeddings`, float32 (n, D), is what `Model.embed` gives: the pixels' normalisation and
    the embeddings' are part of the network. The metadata are those of `describe`, each value as JSON.

    Raises:
        InputError: A package is missing; there is no model, or a folder where the file should be, or none around it;
            the model is too large, or does what ONNX cannot express.
        OSError: The disk is full, or the folder cannot be written to.
    """
    file = Path(file)
    if not (find_spec("onnx") and find_spec("onnxscript")):
        raise InputError("ONNX needs packages that are not here: pip install 'nearkin[onnx]'")
    if not file.parent.is_dir():
        raise InputError(f"expected a file in a folder, but there is no folder {file.parent}; make it, or name another")
    if file.exists() and not file.is_file():
        raise InputError(f"expected a file to write, but {file} is a folder or a device; name a file")
    model = load(run)
    held = sum(tensor.nbytes for tensor in model.embedder.state_dict().values())
    if held > LIMIT:
        raise InputError(
            f"an ONNX file holds {LIMIT / 10**9:.0f} GB of weights, the model {held / 10**9:.1f}; train a smaller one"
        )
    write_file(file, to_onnx(model))


def to_onnx(model: Model) -> bytes:
    """The content of the file.

    Raises:
        InputError: The network does what ONNX cannot express.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    network = Network(model.embedder, model.architecture).cpu().eval()
    size = model.architecture.image.size
    two = torch.zeros(2, 3, size, size, dtype=torch.uint8)  # of 1 the exporter would think that it can only be 1
    failed = f"{model.architecture.backbone} cannot be written as ONNX ({{}}); train with another backbone"
    try:
        with quiet():
            program = torch.onnx.export(
                network,
                (two,),
                input_names=["images"],
                output_names=["embeddings"],
                dynamic_shapes=({0: torch.export.Dim("n")},),
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise InputError(failed.format(first_line(error.__cause__ or error))) from error  # its own words are too many
    assert program is not None
    shape = program.model.graph.outputs[0].shape
    if shape is None or isinstance(shape[0], int):  # the exporter gives up n without a word
        raise InputError(failed.format("it would take no other number of pictures than the example's"))
    ClearMetadataAndDocStringPass()(program.model)  # every node says where on this machine its source lies
    program.model.metadata_props.update({key: json.dumps(value) for key, value in describe(model).items()})
    content: bytes = program.model_proto.SerializeToString()
    return content


def describe(model: Model) -> dict[str, object]:
    """All that has to be known to use the network: how to prepare pictures, and how to compare embeddings."""
    architecture, image = model.architecture, model.architecture.image
    start = (image.side - image.size) // 2
    return {
        "preprocessing": steps(image),
        "size": image.size,
        "resize": image.side,
        "fit": image.fit,
        "jpeg_draft": [2 * image.side] * 2,  # as in Pillow's `draft`: what `read_image` asks a JPEG for
        "resampling": "bilinear",
        "antialias": True,
        "crop": [start, start, image.size, image.size],  # left, top, width, height
        "colours": "RGB",
        "range": [0, 255],
        "backbone": architecture.backbone,
        "levels": architecture.levels,
        "normalized": architecture.normalize,
        "metric": METRIC,
        "sha256": model.sha256,
        "nearkin": version("nearkin"),
    }


def steps(image: Preprocessing) -> list[str]:
    """From a picture to the network's input, for a person to read."""
    start, twice = (image.side - image.size) // 2, 2 * image.side
    return [
        "decode to 8-bit RGB, upright as EXIF says, transparency on white; a JPEG at the smallest of 1/8, 1/4 and 1/2 "
        f'that leaves both sides {twice} pixels or more, as Pillow\'s draft("RGB", ({twice}, {twice})), else whole',
        f"{FITS[image.fit].format(image.side)}; bilinear, antialiased, rounded to whole numbers",
        f"of that, take the {image.size} x {image.size} pixels that begin {start} from the left and the top",
        f"colours first: uint8 (n, 3, {image.size}, {image.size}), 0 to 255; the network normalises them itself",
    ]


@contextmanager
def quiet() -> Iterator[None]:
    """Without logs, warnings and output: the exporter's are about itself, and it prints what it cannot export."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
