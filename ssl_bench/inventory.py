"""``ssl-bench list``: what there is - methods, data sets, recipes, studies, networks - as aligned text.

Only the networks need timm (and torch); everything else is read from files and names.
"""

from __future__ import annotations

import fnmatch
import itertools
import textwrap
from collections.abc import Sequence
from importlib import resources
from typing import Any

from ssl_bench import zoo
from ssl_bench.catalog import method_names, method_summaries, pretraining_names
from ssl_bench.flags import nearest
from ssl_bench.messages import refuse

WIDTH = 100  # columns; a row whose last cell does not fit goes on under that cell
WORDS = {
    "methods": "each with its idea",
    "datasets": "classes, images, what they show",
    "recipes": "and their data sets, of every method or of one:  list recipes fixmatch",
    "studies": "what each compares",
    "archs": "networks: families, or names by pattern:  list archs 'vit_small*'",
}


def main(argv: Sequence[str]) -> int:
    """``ssl-bench list ARGV``: print and return 0; 2 and one line on stderr for a word that names nothing."""
    try:
        print(text(argv))
    except ValueError as error:
        return refuse("ssl-bench list", error, 2)
    return 0


def text(argv: Sequence[str]) -> str:
    """What ``ssl-bench list ARGV`` prints.  ValueError: an unknown word, with the nearest; or one word too many."""
    word, rest = (argv[0], argv[1:]) if argv else ("", ())
    if word in ("", "-h", "--help"):
        return overview()
    if word not in WORDS:
        raise ValueError(nearest(word, WORDS, "word"))
    if len(rest) > (word in ("recipes", "archs")):
        remedy = "quote the pattern, as 'vit*'" if word == "archs" else "leave the rest out"
        raise ValueError(f"too many words after {word}: {' '.join(rest)[:60]}; {remedy}")
    if word == "recipes":
        return recipes(*rest)
    if word == "archs":
        return archs(*rest)
    return {"methods": methods, "datasets": datasets, "studies": studies}[word]()


def columns(rows: Sequence[Sequence[str]], right: Sequence[int] = (), indent: str = "") -> str:
    """Rows of equal length as columns, aligned left (those in `right`: right); the last one, always left, wraps at `WIDTH`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in enumerate(row)]
        start = indent + "".join(cell + "  " for cell in cells[:-1])
        lines += textwrap.wrap(
            row[-1], WIDTH, break_long_words=False, break_on_hyphens=False, initial_indent=start, subsequent_indent=" " * len(start)
        ) or [start]
    return "\n".join(line.rstrip() for line in lines)


def overview() -> str:
    """All names, and the words that say more."""
    names = {
        "methods": method_names(), "data sets": [*zoo.names(), "package.module:Name"], "recipes": _yaml_names(),
        "studies": _yaml_names("studies"),
    }  # fmt: skip
    return "\n".join(
        [columns([(f"{what}:", ", ".join(of)) for what, of in names.items()]), "", "more:",
         columns([(f"ssl-bench list {word}", about) for word, about in WORDS.items()], indent="  ")]
    )  # fmt: skip


def methods() -> str:
    """Name and idea, and which make initial weights for the others."""
    marks = dict.fromkeys(pretraining_names(), " (pre-training)")
    return columns([(name, idea + marks.get(name, "")) for name, idea in method_summaries().items()])


def datasets() -> str:
    """Name, classes, training and test images, images without a label, what they show."""
    rows: list[tuple[str, ...]] = [("name", "classes", "train", "test", "unlabelled", "")]
    for name, data in zoo.PUBLISHED.items():
        counts = [f"{count:,}" if count else "" for count in (data.classes, data.train, data.test, data.unlabeled)]
        rows.append((name, *counts, data.about))
    rows.append((zoo.FOLDER, *[""] * 4, "your images: labelled/<class>/ unlabelled/ test/<class>/, or train/ test/"))
    rows.append(("module:Name", *[""] * 4, "your function of the root folder that returns a DataSet"))
    return columns(rows, right=(1, 2, 3, 4))


def recipes(method: str | None = None) -> str:
    """Of each method (or of `method`): how the file's header begins; recipe names: the data sets they have a section for.

    Recipes with sections for the same data sets share a line.  ValueError: an unknown method, or one without a file.
    """
    shipped = _yaml_names()
    if method is not None and method not in shipped:
        if method in method_names():
            raise ValueError(f"{method} has no recipe file: its defaults apply, and base's; these have: {', '.join(shipped)}")
        raise ValueError(nearest(method, method_names(), "method"))
    parts = []
    for name in shipped if method is None else [method]:
        header, tree = _read(name)
        named: dict[tuple[str, ...], list[str]] = {}
        for recipe, sections in tree.items():
            named.setdefault(tuple(section for section in sections if section != "all"), []).append(recipe)
        rows = []
        for sets, names in named.items():
            *first, last = textwrap.wrap(f"{', '.join(names)}:", WIDTH * 2 // 3, break_on_hyphens=False)
            rows += [*((line, "") for line in first), (last, ", ".join(sets) or "the same on every data set")]
        parts.append(columns([(name, header)]) + "\n" + columns(rows, indent="  "))
    if method is None:
        parts.append("--recipe NAME chooses one; base applies under all but none; --dry-run shows what comes of it.")
    return "\n\n".join(parts)


def studies() -> str:
    """Name, how the file's header begins, number of methods, settings and seeds."""
    rows = []
    for name in _yaml_names("studies"):
        header, tree = _read(name, "studies")
        parts = {key: tree[key] for key in ("methods", "settings", "seeds") if isinstance(tree.get(key), list)}
        counts = ["all methods" if "all" in of else f"{len(of)} {key if len(of) > 1 else key[:-1]}" for key, of in parts.items()]
        rows.append((name, header.rstrip(".") + f" ({', '.join(counts)})"))
    return columns(rows)


def archs(pattern: str | None = None) -> str:
    """Networks by family, with an example each; with a pattern (``vit*``; ``resnet50.*``: weights): the names it matches.

    Per name: timm's module, side of the input its weights were trained at, tag of the weights used without --scratch
    (-: there are none).  ValueError: nothing matches.
    """
    import timm  # takes seconds

    from ssl_bench.nets import two_streams
    from ssl_bench.nets.wide_resnet import NAMES, depth_and_width

    if pattern is None:
        return _families()
    known = [*(timm.list_pretrained() if "." in pattern else timm.list_models()), *NAMES, *two_streams.NAMES]
    hits = [pattern] if depth_and_width(pattern) else fnmatch.filter(known, pattern.lower())
    if not hits:
        if not set(pattern) & set("*?["):
            near = fnmatch.filter(known, f"*{pattern.lower()}*")
            if near:
                raise ValueError(f"no --arch {pattern!r}; '*{pattern}*' matches {len(near)}")
        raise ValueError(nearest(pattern, known, "--arch") + "; without a pattern the families are shown")
    return columns([("name", "family", "input", "weights"), *map(_network, hits)], right=(2,))


def _families() -> str:
    import timm

    found: dict[str, list[str]] = {}
    for name in timm.list_models():
        found.setdefault(_family(name), []).append(name)
    rows = [("family", "names", "for example")]
    for family, names in sorted(found.items()):
        example = min(names, key=lambda name: (name.startswith("test_"), not timm.is_model_pretrained(name), len(name), name))
        rows.append((family, str(len(names)), example))
    rows.append(("wide_resnet", "any", "wrn_28_2; any wrn_DEPTH_WIDTH with a depth of 6n + 4"))
    rows.append(("semiformer", "any", "semiformer_small_patch16; semiformer:CNN+ViT of two names; of the method semiformer"))
    count = sum(map(len, found.values()))
    more = f"{count:,} names of timm, and WRNs.  Names: ssl-bench list archs 'vit_small*'; weights: 'resnet50.*'"
    return columns(rows, right=(1,)) + "\n\n" + more


def _network(name: str) -> tuple[str, str, str, str]:
    import timm

    from ssl_bench.models import TORCHVISION_V1
    from ssl_bench.nets import two_streams
    from ssl_bench.nets.wide_resnet import depth_and_width

    if depth_and_width(name) is not None:
        return name, "wide_resnet", "32", "-"
    if two_streams.is_name(name):
        return name, "semiformer", {"4": "32", "8": "64"}.get(name[-1], "224"), "-"
    cfg = timm.get_pretrained_cfg(f"{name}.tv_in1k" if name in TORCHVISION_V1 else name)
    if cfg is None:
        return name, _family(name), "-", "-"
    weights = (cfg.tag or "untagged") if timm.is_model_pretrained(name) else "-"
    return name, _family(name), str(cfg.input_size[-1]), weights


def _family(name: str) -> str:
    import timm

    return timm.model_entrypoint(name).__module__.rpartition(".")[2]


def _folder(kind: str) -> Any:
    shipped = resources.files("ssl_bench.recipes")
    return shipped.joinpath(kind) if kind else shipped


def _yaml_names(kind: str = "") -> list[str]:
    return sorted(file.name[:-5] for file in _folder(kind).iterdir() if file.name.endswith(".yaml"))


def _read(name: str, kind: str = "") -> tuple[str, dict[str, Any]]:
    """What the comment at the top begins with, to the first line that ends a sentence; and what the YAML holds."""
    import yaml

    body = _folder(kind).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    header: list[str] = []
    for line in itertools.takewhile(lambda line: line.startswith("#"), body.splitlines()):
        header.append(line.lstrip("# "))
        if line.endswith("."):
            break
    return " ".join(header), yaml.safe_load(body)
