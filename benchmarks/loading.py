"""Decoding, augmenting, the cache and embedding, each beside its floor. One core; rates are per second of CPU time.

    python benchmarks/loading.py [PHOTOS]

The pictures are JPEGs of several sizes (longer side, 3:4, quality 90), scaled from those below PHOTOS, or drawn. Bare:
simplejpeg decodes the file from memory, at its full size, and nothing else. torchcodec, torchvision (each with
PyTorch's antialiased resize) and Pillow (with its own) bring the same pictures to the same size; the first runs if it
is installed. What is compared takes turns; medians of the rounds.
"""

import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torchvision.io import ImageReadMode, decode_jpeg

from nearkin.data import Augmentation, ImageList, Preprocessing, pictures, read_all
from nearkin.embed import Architecture, Model
from nearkin.models import Backbone, Embedder

try:
    from torchcodec.decoders import decode_image
except ImportError:
    decode_image = None

COUNT, ROUNDS = 64, 5


def photographs(side: int, sources: list[Path]) -> list[bytes]:
    """JPEGs (side, 3/4 side) or upright."""
    random, made = np.random.default_rng(side), []
    for i in range(COUNT):
        size = (side, side * 3 // 4)[:: 1 if i % 2 else -1]
        if sources:
            image = Image.open(sources[i * len(sources) // COUNT]).convert("RGB").resize(size, Image.Resampling.BICUBIC)
        else:
            coarse = Image.fromarray(random.integers(256, size=(12, 12, 3)).astype(np.uint8))
            image = coarse.resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.EDGE_ENHANCE)
        pixels = np.asarray(image) + random.normal(0, 4, (size[1], size[0], 1))
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        made.append(file.getvalue())
    return made


def rates(ways: dict[str, Callable[[], object]], count: int, rounds: int = ROUNDS) -> dict[str, float]:
    """Pictures per second of CPU time of each way, taking turns after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            way()
            times[name].append(time.process_time() - start)
    return {name: count / median(each[1:]) for name, each in times.items()}


def resized(image: torch.Tensor, side: int) -> torch.Tensor:
    return F.interpolate(image[None], (side, side), mode="bilinear", antialias=True)[0]


def decoding(sources: list[Path]) -> None:
    def tensor(file: bytes) -> torch.Tensor:
        return torch.frombuffer(bytearray(file), dtype=torch.uint8)

    peers = {
        "torchvision": lambda file, side: resized(decode_jpeg(tensor(file), ImageReadMode.RGB), side),
        "Pillow": lambda file, side: np.array(Image.open(io.BytesIO(file)).convert("RGB").resize((side, side), 2)),
    }
    if decode_image is not None:
        peers = {"torchcodec": lambda file, side: resized(decode_image(tensor(file)), side), **peers}
    varied = Augmentation(mirror=True)
    names = ("bare", "nearkin", "and mirrored", *peers)
    print("Decoded, pictures/s" + "".join(f"{name:>14}" for name in names) + "   nearkin / bare, / best peer")
    for long in (160, 348, 500, 800):
        files = photographs(long, sources)
        for side in (256, 64):
            preprocessing = Preprocessing(size=side)

            def mirrored(files: list[bytes] = files, p: Preprocessing = preprocessing) -> None:
                batch = torch.from_numpy(np.stack([p.decode(file).transpose(2, 0, 1) for file in files]))
                varied(batch, p.size, torch.default_generator)

            ways: dict[str, Callable[[], object]] = {
                "bare": lambda files=files: [simplejpeg.decode_jpeg(file) for file in files],
                "nearkin": lambda files=files, p=preprocessing: [p.decode(file) for file in files],
                "and mirrored": mirrored,
            }
            for name, peer in peers.items():
                ways[name] = lambda files=files, side=side, peer=peer: [peer(file, side) for file in files]
            found = rates(ways, len(files))
            best = max(found[name] for name in peers)
            line = f"{long:4} -> {side:3} px       " + "".join(f"{found[name]:14,.0f}" for name in names)
            print(f"{line}{found['nearkin'] / found['bare']:11.2f}{found['nearkin'] / best:9.2f}", flush=True)


def augmenting() -> None:
    print("\nAugmented, µs/picture   mirror    and rotate, zoom, contrast")
    for n, side, size in ((128, 64, 64), (120, 256, 227)):
        batch = torch.randint(256, (n, 3, side, side), dtype=torch.uint8)
        ways = {
            name: lambda augment=augment: augment(batch, size, torch.default_generator)  # noqa: B023
            for name, augment in (
                ("mirror", Augmentation()),
                ("all", Augmentation(rotate=10, zoom=0.2, contrast=0.3)),
            )
        }
        found = {name: 1e6 / rate for name, rate in rates(ways, n).items()}
        print(f"{n} of {side} -> {size} px{found['mirror']:13.0f}{found['all']:14.0f}", flush=True)


def epochs(images: ImageList, folder: Path) -> None:
    """The first epoch decodes, later ones come from the cache; nothing is kept in memory."""
    pictures.KEEP_BYTES = 0
    preprocessing = Preprocessing(size=227, resize=256)
    decoded = pictures.Pictures(images.paths, preprocessing)
    start = time.process_time()
    _, cached = read_all(images, preprocessing, cache=folder)
    built = len(images.paths) / (time.process_time() - start)
    start = time.process_time()
    read_all(images, preprocessing, cache=folder)
    found_again = time.process_time() - start
    batches = np.array_split(np.random.default_rng(0).permutation(len(images.paths)), len(images.paths) // 64)
    found = rates(
        {
            "decoded": lambda: [decoded[batch] for batch in batches],
            "cached": lambda: [cached[batch] for batch in batches],
        },
        len(images.paths),
    )
    ratio = found["cached"] / found["decoded"]
    print("\nAn epoch at 256 px from JPEGs of 500 px, pictures/s")
    print(f"decoded {found['decoded']:,.0f}; from the cache {found['cached']:,.0f}: {ratio:.1f}x")
    print(
        f"built at {built:,.0f}; {len(images.paths):,} pictures found again in {1e3 * found_again:.1f} ms", flush=True
    )


def embedding(images: ImageList) -> None:
    print("\nEmbedded, pictures/s    network  decoded before  / network  from files  / network and decoder in turn")
    for name, size, few in (("convnet", 64, 512), ("timm:resnet18", 224, 64)):
        preprocessing = Preprocessing(size=size)
        embedder = Embedder(Backbone(name).build(), 128)
        embedder.to(memory_format=torch.channels_last).eval()
        model = Model(embedder, Architecture(name, 128, "avg", True, preprocessing))
        pictures.KEEP_BYTES = 2**32
        paths = images.paths[:few]
        held = pictures.Pictures(paths, preprocessing)
        batches = held[np.arange(few)].split(model.batch)

        @torch.inference_mode()
        def network(embedder: Embedder = embedder, batches: tuple[torch.Tensor, ...] = batches) -> None:
            for batch in batches:
                embedder(batch)

        found = rates(
            {
                "network": network,
                "held": lambda model=model, held=held, few=few: model.embed_pictures(held, np.arange(few)),
                "decoder": lambda p=preprocessing, paths=paths: [p.decode(path) for path in paths],
                "files": lambda model=model, paths=paths: model.embed(paths),
            },
            few,
        )
        floor = 1 / (1 / found["network"] + 1 / found["decoder"])
        print(
            f"{name} at {size} px".ljust(22)
            + f"{found['network']:9,.0f}{found['held']:16,.0f}{found['held'] / found['network']:11.2f}"
            + f"{found['files']:12,.0f}{found['files'] / floor:11.2f}",
            flush=True,
        )


def main(folder: Path | None) -> None:
    torch.set_num_threads(1)
    sources = [] if folder is None else sorted(folder.rglob("*.jpg"))
    if folder is not None and not sources:
        sys.exit(f"no .jpg below {folder}")
    decoding(sources)
    augmenting()
    with tempfile.TemporaryDirectory() as place:
        paths = []
        for i, file in enumerate(photographs(500, sources) * 8):
            paths.append(Path(place) / f"{i:04d}.jpg")
            paths[-1].write_bytes(file + b"%d" % i)  # a content of its own
        images = ImageList(paths, np.zeros(len(paths), dtype=np.int64), ["all"])
        epochs(images, Path(place) / "cache")
        embedding(images)


if __name__ == "__main__":
    if len(sys.argv) > 2 or sys.argv[1:] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    main(Path(sys.argv[1]) if sys.argv[1:] else None)
