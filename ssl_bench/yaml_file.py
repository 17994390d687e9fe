"""YAML as people write recipes and studies, read strictly: what is there twice, refers to itself or grows without end is an error with its line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_bench.flags import FlagError
from ssl_bench.messages import one_line
from ssl_bench.whole_file import read_file

if TYPE_CHECKING:
    import yaml

DEEPEST = 50  # levels
MOST = 100_000  # nodes, each reference counted as what it stands for: ten lines of references can stand for billions
LONGEST_NUMBER = 40  # characters


def read_yaml_text(path: str | os.PathLike[str], what: str) -> str:
    """The text of the file.  FlagError names `what` (such as "recipe file x.yaml") and why it cannot be read."""
    try:
        return read_file(Path(path)).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FlagError(f"{what} cannot be read: it is not text in UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise FlagError(f"{what} cannot be read: {error.strerror}") from None


def parse_yaml(text: str, where: str) -> Any:
    """What `text` says.  FlagError names `where` and the line of what is no YAML, a key there twice, a value that is none of its kind."""
    import yaml

    class Loader(yaml.SafeLoader):
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.depth += 1
            if self.depth > DEEPEST:  # here, since a scanner of brackets takes the square of their number
                raise yaml.MarkedYAMLError(problem=f"nested more than {DEEPEST} levels deep", problem_mark=self.peek_event().start_mark)
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    try:
        root = yaml.compose(text, Loader=Loader)
        if root is None:
            return None
        _check(root, where)
        return yaml.SafeLoader("").construct_document(root)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise FlagError(f"{where} is not valid YAML: {line}{one_line(error.problem or error.context)}") from None
    except yaml.reader.ReaderError as error:
        number = text.count("\n", 0, error.position) + 1
        raise FlagError(f"{where} is not valid YAML: line {number}: a control character ({error.character:#x})") from None


def line_of(text: str, *keys: str) -> int | None:
    """The line, from 1, of the last of `keys`, each a key of what stands under the one before (what is merged into it counts); None
    where it is not so."""
    import yaml

    line = None
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return None
    for key in keys:
        found = _entry(node, key)
        if found is None:
            return None
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def _entry(node: yaml.Node | None, name: str) -> tuple[yaml.Node, yaml.Node] | None:
    import yaml

    if not isinstance(node, yaml.MappingNode):
        return None
    for key, value in node.value:
        if key.tag == "tag:yaml.org,2002:str" and key.value == name:
            return key, value
    merged = [value for key, value in node.value if key.tag == "tag:yaml.org,2002:merge"]
    sources = (source for value in merged for source in (value.value if isinstance(value, yaml.SequenceNode) else [value]))
    return next((found for found in (_entry(source, name) for source in sources) if found), None)


def _check(root: yaml.Node, where: str) -> None:
    import yaml

    sizes: dict[int, int] = {}  # of what hangs on a node; 0 while it is being looked at

    def fault(node: yaml.Node, what: str) -> FlagError:
        return FlagError(f"{where} line {node.start_mark.line + 1}: {what}")

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            if isinstance(node, yaml.MappingNode):
                twice(node)
            elif isinstance(node, yaml.ScalarNode):
                scalar(node)
            sizes[id(node)] = 0
            sizes[id(node)] = total = 1 + sum(size(each) for each in _inner(node))
            if total > MOST:
                raise fault(node, f"stands for more than {MOST:,} values, by references to references")
        elif not sizes[id(node)]:
            raise fault(node, "refers to itself")
        return sizes[id(node)]

    def scalar(node: yaml.ScalarNode) -> None:
        kind = node.tag.rpartition(":")[2]
        if kind in ("int", "float") and len(node.value) > LONGEST_NUMBER:
            raise fault(node, f"a number of {len(node.value)} digits")
        if kind in ("int", "float", "bool", "timestamp"):
            try:
                yaml.SafeLoader("").construct_object(node)
            except (ValueError, LookupError, AttributeError):  # a date of a 13th month
                raise fault(node, f"{node.value!r} is no {kind}") from None

    def twice(node: yaml.MappingNode) -> None:
        seen: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise fault(key, "a list or mapping stands where a name is wanted")
            name = key.tag, key.value
            if name in seen:
                raise fault(key, f"{key.value!r} stands in line {seen[name]} already")
            seen[name] = key.start_mark.line + 1

    size(root)


def _inner(node: yaml.Node) -> Iterator[yaml.Node]:
    import yaml

    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value
