"""``ssl-bench evaluate``: a trained network's figures on a test set, class by class, and how far its confidence can be trusted."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl_bench import curves, zoo
from ssl_bench.atomic import write_json, write_with
from ssl_bench.curves import BINS, Predictions
from ssl_bench.datasets.class_folders import images_of
from ssl_bench.datasets.images import Images
from ssl_bench.datasets.listing import image_files, visible
from ssl_bench.evaluate import Answers, evaluate, evaluation_stream
from ssl_bench.trained import Trained, add_flags, failed, from_flags
from ssl_bench.word_parser import WordParser

TEST = ("test", "val")


@dataclass(frozen=True)
class Evaluation:
    """row: top1, top5, mean_class (percent), loss (nats), as in a run; then by image, in the order of the set: label, predicted
    label, and its probability."""

    row: dict[str, float]
    target: np.ndarray  # (N,) int32
    prediction: np.ndarray  # (N,) int32
    confidence: np.ndarray  # (N,) float32

    @property
    def images(self) -> Predictions:
        """As `curves` counts them."""
        confidence = np.minimum(self.confidence.astype(np.float64), 1.0)  # a softmax in float32 may add up to a little more
        return Predictions(self.target.astype(np.int64), self.prediction.astype(np.int64), confidence)

    @property
    def ece(self) -> float:
        """Expected calibration error, percent, of BINS bins: see `curves.ece`."""
        return 100 * curves.ece(curves.reliability(self.images))

    def by_class(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """name, images, top1 (percent), most_taken_for and times, worst class first; classes without an image are left out."""
        images = self.images
        share, count = curves.per_class(images, len(classes))
        taken: dict[int, tuple[str, int]] = {}
        for true, predicted, times in curves.confused(images, len(images.target)):
            taken.setdefault(true, (classes[predicted], times))
        rows = []
        for c in np.flatnonzero(count).tolist():
            other, times = taken.get(c, (None, 0))
            rows.append(dict(name=classes[c], images=int(count[c]), top1=100 * float(share[c]), most_taken_for=other, times=times))
        return sorted(rows, key=lambda row: row["top1"])


def evaluated(trained: Trained, images: Images, batch_size: int = 256, workers: int = 0) -> Evaluation:
    """`trained` over `images`, by the function and the view that training evaluates with.  UnreadableImage: a broken file."""
    stream = evaluation_stream(images, trained.view, trained.device, batch_size=batch_size, workers=workers)
    answers = Answers(len(images), trained.device)
    row = evaluate(trained.predict, stream, len(trained.classes), answers)
    return Evaluation(row, **answers.arrays())


def test_images(trained: Trained, data: str | None, root: str | None, download: bool = True) -> tuple[Images, str]:
    """The images to evaluate, their targets in the order of the network's classes; and what they are called.

    data: a set by name; None: the run's own, or with a `root` of the form <class>/*, or test/<class>/*, that folder.
    OSError, ValueError: not to be had, or of other classes.
    """
    own = data is None or data == trained.args.data and root is None
    if root is not None and (data is None and trained.args.data == zoo.FOLDER or data == zoo.FOLDER):
        classes, images = _folder(root)
        return _in_order(images, classes, trained, root), root
    if data is None and ":" in trained.args.data:
        raise ValueError(f"the run's data set is {trained.args.data}, a function of one's own: name it with -d, and it is called")
    name = data or trained.args.data
    loaded = zoo.load(name, trained.args.root if own and root is None else root, download=download)
    if data in (None, trained.args.data) and not trained.named and len(loaded.classes) == len(trained.classes):
        return loaded.test, name  # its own classes, of which the run did not record the names
    return _in_order(loaded.test, loaded.classes, trained, name), name


def _folder(root: str) -> tuple[tuple[str, ...], Images]:
    top = os.path.expanduser(root)
    if not os.path.isdir(top):
        raise FileNotFoundError(f"no folder {root}")
    top = next((inner for inner in (os.path.join(top, name) for name in TEST) if os.path.isdir(inner)), top)
    classes = tuple(visible(top)[0])
    files = {name: image_files(os.path.join(top, name)) for name in classes}
    empty = [name for name in classes if not files[name]]
    if not classes or empty:
        raise ValueError(f"{top} holds no class folders of images" if not classes else f"no images in class folder {os.path.join(top, empty[0])}")
    return classes, images_of(classes, files)


def _in_order(images: Images, classes: Sequence[str], trained: Trained, what: str) -> Images:
    if not trained.named:
        raise ValueError(f"the names of the network's {len(trained.classes)} classes are not known, so {what} cannot be matched: list them in classes.json beside args.json")
    wanting, extra = (sorted({*a} - {*b}) for a, b in ((trained.classes, classes), (classes, trained.classes)))
    if wanting or extra:
        parts = [f"{len(names)} {of}, such as {names[0]!r}" for names, of in ((wanting, "only in the network"), (extra, f"only in {what}")) if names]
        raise ValueError(f"{what} has other classes than the network: {', '.join(parts)}")
    if tuple(classes) == trained.classes:
        return images
    places = np.array([trained.classes.index(name) for name in classes], np.int64)
    return Images(places[images.targets], images.pixels, images.paths, images.cached)


def main(argv: Sequence[str] | None = None) -> int:
    """``ssl-bench evaluate``: 0, or 1 after one line on stderr."""
    parser = WordParser(
        prog="ssl-bench evaluate", description="A trained network's figures on a test set: the run's own, or another of the same classes.",
        epilog="For example: ssl-bench evaluate runs/fixmatch/Digits/4x/0-0123456789ab my_test -d ImageFolder",
    )  # fmt: skip
    add_flags(parser)
    add = parser.add_argument
    add("root", nargs="?", metavar="DIR", help="folder of the data set, where it is not the run's own")
    add("-d", "--data", metavar="NAME", help="data set (default: the run's); ImageFolder: DIR holds <class>/*, or test/<class>/*")
    add("--out", metavar="FILE.json", help="also write the figures there")
    add("--predictions", metavar="FILE.npz", help="also write target, prediction and confidence of each image there")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps; auto takes the best there is (default: %(default)s)")
    add("--batch-size", type=int, default=256, metavar="N", help="images at a time (default: %(default)s)")
    add("-j", "--workers", type=int, default=4, metavar="N", help="processes that decode; 0: this one (default: %(default)s)")
    add("--no-download", dest="download", action="store_false", help="do not fetch the data set if it is missing")
    options = parser.parse_args(argv)
    if options.batch_size < 1 or options.workers < 0:
        parser.error("--batch-size must be at least 1, --workers at least 0")
    try:
        trained = from_flags(options, options.device)
        images, name = test_images(trained, options.data, options.root, options.download)
        found = evaluated(trained, images, options.batch_size, options.workers)
        body = _body(trained, name, found)
        print(text(body), end="")
        for path in filter(None, (options.out, options.predictions)):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        if options.out:
            write_json(Path(options.out), body)
        if options.predictions:
            write_predictions(Path(options.predictions), found)
    except (OSError, ValueError) as error:
        return failed("evaluate", error)
    wrote = [path for path in (options.out, options.predictions) if path]
    print("".join(f"wrote {path}\n" for path in wrote), end="", file=sys.stderr)
    return 0


def write_predictions(path: Path, found: Evaluation) -> None:
    """target int32, prediction int32, confidence float32, (N,) each, as a run's predictions.npz."""
    write_with(path, lambda file: np.savez_compressed(file, target=found.target, prediction=found.prediction, confidence=found.confidence))


def _body(trained: Trained, name: str, found: Evaluation) -> dict[str, Any]:
    return dict(
        checkpoint=str(trained.file), method=trained.method.name, arch=trained.args.arch, data=name, images=len(found.target),
        **found.row, ece=found.ece, ece_bins=BINS, classes=found.by_class(trained.classes),
    )  # fmt: skip


def text(body: dict[str, Any]) -> str:
    """What a person reads: the figures, then the classes, worst first."""
    lines = [f"{body['checkpoint']} ({body['method']}, {body['arch']}) on {body['data']}, {body['images']} images",
             f"top-1 {body['top1']:.2f} %   top-5 {body['top5']:.2f} %   mean per class {body['mean_class']:.2f} %",
             f"loss {body['loss']:.4f} nats   calibration error (ECE, {body['ece_bins']} bins) {body['ece']:.2f} %", ""]  # fmt: skip
    width = max([len("class"), *(len(row["name"]) for row in body["classes"])])
    lines.append(f"{'class':<{width}}  images  top-1 %  most taken for")
    for row in body["classes"]:
        other = f"{row['most_taken_for']} ({row['times']})" if row["times"] else "-"
        lines.append(f"{row['name']:<{width}}  {row['images']:>6}  {row['top1']:>7.1f}  {other}")
    return "\n".join(lines) + "\n"
