"""Write the generated parts of docs/methods/*.md again: what stands between `<!-- generated: NAME -->` and `<!-- end -->`.

    python tools/method_pages.py

Flags come from the methods' Args, ideas and papers from the scripts' docstrings, recipes and commands from recipes/, results
from results/published/.  Prints the pages that changed.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ssl_bench import catalog, inventory
from ssl_bench.args import Args
from ssl_bench.flags import Spec, describe_range, specs

REPOSITORY = Path(__file__).parent.parent
PAGES = REPOSITORY / "docs" / "methods"
LOGGED_BY_ALL = {
    "step": "steps done",
    "epoch": "epoch of that step, from 0",
    "kind": "`train`: means over the steps since the row before; `test`: an evaluation of the whole test set",
    "top1": "test accuracy, percent",
    "top5": "test images whose class is among the five most likely ones, percent (of fewer classes: among all)",
    "mean_class": "mean over classes of the test accuracy on each, percent",
    "loss": "mean cross-entropy on the test set, nats",
}


def page_text(text: str, blocks: Mapping[str, str]) -> str:
    """`text` with the body of every generated part replaced by ``blocks[NAME]``.  ValueError: an unknown NAME, or no end."""
    opened = re.findall(r"<!-- generated: (\w+) -->", text)
    unknown = [name for name in opened if name not in blocks]
    if unknown or len(opened) != text.count("<!-- end -->"):
        ends = text.count("<!-- end -->")
        raise ValueError(f"unknown part {unknown[0]!r}" if unknown else f"{len(opened)} parts begin, {ends} end")
    part = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return part.sub(lambda found: f"{found[1]}{blocks[found[2]]}\n{found[3]}", text)


def blocks_of(name: str) -> dict[str, str]:
    """The generated parts of one method's page."""
    return {
        "summary": summary(name), "flags": flag_tables(name),
        "logged": table(("key", "meaning"), code_first(LOGGED_BY_ALL.items())),
        "published": published(name, REPOSITORY / "results" / "published"), "commands": commands(name),
    }  # fmt: skip


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def code_first(rows: Any) -> list[tuple[str, ...]]:
    return [(f"`{first}`", *rest) for first, *rest in rows]


def docstring(name: str) -> tuple[str, str]:
    """(first line, the rest as one paragraph a paragraph) of a script's docstring."""
    text = ast.get_docstring(ast.parse((REPOSITORY / "methods" / f"{name}.py").read_text(encoding="utf-8")))
    first, _, rest = (text or "").partition("\n")
    return first, re.sub(r"(?<!\n)\n(?!\n)", " ", rest.strip())


def summary(name: str) -> str:
    """Idea and paper, linked."""
    first, rest = docstring(name)
    rest = re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", rest)
    choices = {value for spec in specs(catalog.load_method(name).Args).values() for value in spec.metadata["choices"]}
    values = "|".join(sorted(choices | {"FILE", r"\d+"}))
    rest = re.sub(rf"(?<![\w`-])(--[a-z][\w-]*(?: (?:{values})\b)?)", r"`\1`", rest)
    rest = rest.replace("(docs/fidelity.md)", "([fidelity](../fidelity.md))")
    return f"**{first}**\n\n{re.sub('  +', ' ', rest)}"


def flag_tables(name: str) -> str:
    """The method's own flags, then those of all methods that it gives another default."""
    common, own = specs(Args), specs(catalog.load_method(name).Args)
    new = [spec for spec in own.values() if spec.name not in common]
    added = [(spec.option, shown(spec.default), limits(spec), spec.metadata["help"]) for spec in new]
    changed = [
        (spec.option, shown(spec.default), shown(common[spec.name].default), spec.metadata["help"])
        for spec in own.values() if spec.name in common and spec.default != common[spec.name].default
    ]  # fmt: skip
    parts = [table(("flag", "default", "range", "meaning"), code_first(added))] if added else ["No flag of its own."]
    return "\n\n".join([*parts, table(("flag of all methods", "default here", "elsewhere", "meaning"), code_first(changed))])


def shown(default: Any) -> str:
    if isinstance(default, tuple):
        return " ".join(map(str, default))
    return {"True": "on", "False": "off", "None": "none"}.get(str(default), str(default))


def limits(spec: Spec) -> str:
    return ", ".join(f"`{choice}`" for choice in spec.metadata["choices"]) or describe_range(spec.metadata)


def commands(name: str) -> str:
    """The commands of the recipe file's header, and the data sets it has recipes for."""
    found = [f"ssl-bench {name}"]
    file = REPOSITORY / "recipes" / f"{name}.yaml"
    if file.is_file():
        found += re.findall(r"^# Command: (ssl-bench \S+(?: \S+)*)", file.read_text(encoding="utf-8"), re.MULTILINE)
    block = "```bash\n" + "\n".join(found) + "\n```"
    if not file.is_file():
        shared = "what every method shares on a data set (`ssl-bench list recipes base`)"
        return f"{block}\n\nNo recipe of its own: the defaults above apply, and {shared}."
    return f"{block}\n\nRecipes (`ssl-bench list recipes {name}`):\n\n```\n{inventory.recipes(name)}\n```"


def published(name: str, folder: Path) -> str:
    """The method's rows of the CSV files under `folder`, a table for each source and setting; of one data set with several networks
    or numbers of labels, a row a network."""
    files = sorted(folder.glob("*.csv"))
    rows = pd.concat([pd.read_csv(file, keep_default_na=False) for file in files]) if files else pd.DataFrame({"method": []})
    rows = rows[rows["method"] == name]
    if rows.empty:
        return "None is recorded under `results/published/`."
    few_data = rows["data"].nunique() == 1 and len(rows[["labels_per_class", "arch"]].drop_duplicates()) > 1
    parts = []
    for key, of in rows.groupby(["source", "select", "seeds", *([] if few_data else ["labels_per_class", "arch"])], sort=False):
        source, select, seeds, *setting = key
        what = of["data"].iloc[0] if few_data else f"{setting[0] or 'all'} labels a class, {setting[1]}"
        note = f"{source}: top-1, percent; {what}, evaluation: {select}, seeds: {seeds}; columns: "
        parts.append(f"{note}labels a class.\n\n{by_network(of)}" if few_data else f"{note}initial weights.\n\n{by_data(of)}")
    return "\n\n".join(parts)


def by_data(rows: pd.DataFrame) -> str:
    """Data sets down, initial weights and variants across."""
    of = rows.assign(column=(rows["pretrained"] + " " + rows["variant"]).str.strip())
    grid = of.pivot(index="data", columns="column", values="top1").loc[of["data"].unique(), of["column"].unique()]
    grid.loc["mean"] = grid.mean(skipna=False)
    return table(["data set", *grid.columns], [[data, *map(figure, values)] for data, *values in grid.itertuples()])


def by_network(rows: pd.DataFrame) -> str:
    """Networks, their initial weights and variants down, labels per class across."""
    down = ["arch", "pretrained", "variant"]
    grid = rows.set_index([*down, "labels_per_class"])["top1"].unstack()
    grid = grid.reindex(pd.MultiIndex.from_frame(rows[down].drop_duplicates()))
    grid = grid[sorted(grid.columns, key=lambda labels: labels or math.inf)]
    heads = ["network", "initial weights", "", *(str(labels or "all") for labels in grid.columns)]
    return table(heads, [[*names, *map(figure, values)] for names, *values in grid.itertuples()])


def figure(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"


def index(names: Sequence[str]) -> str:
    """A row a method: link, idea, source."""
    rows = []
    for name in names:
        first, rest = docstring(name)
        arxiv = re.search(r"arXiv:(\d{4}\.\d{5})", rest)
        other = re.match(r'([^"]+), "[^"]+", ([^.]+)\.', rest)  # author, "title", where
        source = f"[{arxiv[0]}](https://arxiv.org/abs/{arxiv[1]})" if arxiv else ", ".join(other.groups()) if other else "-"
        rows.append((f"[`{name}`]({name}.md)", first, source))
    return table(("name", "idea", "source"), rows)


def main() -> None:
    names = catalog.method_names()
    everything = {**{f"{name}.md": blocks_of(name) for name in names}, "README.md": {"index": index(names)}}
    for file, blocks in everything.items():
        old = (PAGES / file).read_text(encoding="utf-8")
        new = page_text(old, blocks)
        if new != old:
            (PAGES / file).write_text(new, encoding="utf-8")
            print(PAGES.relative_to(REPOSITORY) / file)


if __name__ == "__main__":
    main()
