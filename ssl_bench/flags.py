"""A dataclass field is a command-line flag is a recipe key: declared once, converted, range-checked and documented here.

Order of precedence: field default < recipe < command line.  TLlib's published command lines rely on argparse's
unique-prefix rule, so a prefix is first looked up among the flags TLlib had; flags added since cannot make it ambiguous.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# specs: the union of the flags of TLlib's eleven scripts at commit c4aa59e.
TLLIB_FLAGS = frozenset(
    "data num-samples-per-class train-resizing val-resizing norm-mean norm-std auto-augment oracle arch bottleneck-dim no-pool "
    "pretrained-backbone finetune trade-off-cls-strong trade-off-self-training trade-off-con threshold T warm-up-epochs alpha "
    "warmup momentum tau width eta eta-prime projection-dim K m milestones pretrained-teacher batch-size lr learning-rate "
    "lr-scheduler lr-gamma lr-decay wd weight-decay workers epochs iters-per-epoch print-freq seed log phase help".split()
)
TRUTH = {"true": True, "false": False}


class FlagError(ValueError):
    """A flag or recipe key that cannot be used; the message is one line and names it."""


def nearest(word: str, known: Iterable[str], what: str) -> str:
    """One line saying that `word` is no known `what`, with the closest names."""
    known = list(known)
    lower = {name.lower(): name for name in known}
    close = [lower[hit] for hit in difflib.get_close_matches(word.lower(), lower, n=3, cutoff=0.7)]
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    if not close and len(known) <= 20:
        hint = f"; known: {', '.join(sorted(known))}"
    return f"unknown {what} {word!r}{hint}"


def flag(
    default: Any,
    help: str,
    *,
    names: Sequence[str] = (),
    group: str = "method",
    choices: Sequence[str] = (),
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    warn_above: tuple[float, str] | None = None,
    many: int | None = None,
    none: str | None = None,
    positional: bool = False,
    identity: bool | str = True,
) -> Any:
    """Declare one field.

    names: further spellings (``-a``, ``--learning-rate``); ge/gt/le/lt: the range; warn_above: (value, what happens above it); many: for tuple fields, the number of
    values (None: any); none: the word for None; identity: whether the value belongs to what makes two runs the same run (it enters the run's hash);
    "changed": only where it is not the default, so that runs from before the flag existed keep their hash.
    """
    metadata = dict(
        help=help, names=tuple(names), group=group, choices=tuple(choices), ge=ge, gt=gt, le=le, lt=lt, warn_above=warn_above, many=many, none=none,
        positional=positional, identity=identity,
    )
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Spec:
    """One field as the parser sees it."""

    name: str
    kind: type
    optional: bool
    sequence: bool
    default: Any
    metadata: Mapping[str, Any]

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")


def specs(args_class: type) -> dict[str, Spec]:
    """Field name -> Spec.  A subclass may re-declare ``epochs: int = 60``: the help and range come from the first declaration."""
    return _specs(args_class)


@functools.cache  # type hints are slow to resolve, and every command line asks for them several times
def _specs(args_class: type) -> dict[str, Spec]:
    hints = typing.get_type_hints(args_class)
    found = {}
    for field in dataclasses.fields(args_class):
        declared = (getattr(parent, "__dataclass_fields__", {}).get(field.name) for parent in args_class.__mro__)
        metadata = next((of.metadata for of in declared if of is not None and of.metadata), None)
        if metadata is None:
            raise TypeError(f"{args_class.__qualname__}.{field.name} must be declared with ssl_bench.flags.flag(default, help)")
        kind, optional, sequence = _unpack(hints[field.name])
        found[field.name] = Spec(field.name, kind, optional, sequence, field.default, metadata)
    return found


def _unpack(hint: Any) -> tuple[type, bool, bool]:
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        optional, hint = True, members[0]
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], optional, True
    return hint, optional, False


def convert(spec: Spec, value: Any) -> Any:
    """`value` (text from the command line, or YAML) as the field's type, inside its range; FlagError otherwise."""
    if spec.sequence:
        values = value if isinstance(value, (list, tuple)) else [value]
        many = spec.metadata["many"]
        if many is not None and len(values) != many:
            raise FlagError(f"{spec.option} takes {many} values, got {len(values)}")
        return tuple(_scalar(spec, item) for item in values)
    if spec.optional and value in (None, spec.metadata["none"]):
        return None
    return _scalar(spec, value)


def _scalar(spec: Spec, value: Any) -> Any:
    if spec.kind is bool:
        if isinstance(value, bool):
            return value
        raise FlagError(f"{spec.option} is a switch: true or false, got {value!r}")
    if isinstance(value, bool) or value is None or isinstance(value, (list, dict)):
        raise FlagError(f"{spec.option} takes {_kind_name(spec.kind)}, got {value!r}")
    try:
        result = spec.kind(value)
        if spec.kind is int and float(value) != result:
            raise ValueError
    except (TypeError, ValueError, OverflowError):  # TypeError: YAML dates and sets
        raise FlagError(f"{spec.option} takes {_kind_name(spec.kind)}, got {value!r}") from None
    choices = spec.metadata["choices"]
    if choices and result not in choices:
        raise FlagError(f"{spec.option} is one of {', '.join(choices)}; got {value!r}")
    _check_range(spec, result)
    return result


def _kind_name(kind: type) -> str:
    return {int: "a whole number", float: "a number", str: "text"}[kind]


def _check_range(spec: Spec, value: Any) -> None:
    meta = spec.metadata
    inside = (
        (meta["ge"] is None or value >= meta["ge"])
        and (meta["gt"] is None or value > meta["gt"])
        and (meta["le"] is None or value <= meta["le"])
        and (meta["lt"] is None or value < meta["lt"])
        and (spec.kind is not float or value - value == 0)  # neither inf nor nan
    )
    if not inside:
        raise FlagError(f"{spec.option} {value} is out of range: {describe_range(meta) or 'finite'}")


def describe_range(metadata: Mapping[str, Any]) -> str:
    """'>= 0 and <= 1', '' when unbounded."""
    signs = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
    return " and ".join(f"{sign} {metadata[key]:.10g}" for key, sign in signs if metadata[key] is not None)


def warnings(args: Any) -> list[str]:
    """A line for each value that is allowed and hardly meant."""
    lines = []
    for name, spec in specs(type(args)).items():
        limit, what = spec.metadata["warn_above"] or (None, "")
        if limit is not None and getattr(args, name) > limit:
            lines.append(f"warning: {spec.option} {getattr(args, name):g} is above {limit:g}: {what}")
    return lines


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise FlagError(message)


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=120)


def build_parser(args_class: type, prog: str, description: str) -> argparse.ArgumentParser:
    """A parser whose namespace holds only what the command line said (every default is suppressed)."""
    parser = _Parser(
        prog=prog, description=description, allow_abbrev=False, formatter_class=_Help, argument_default=argparse.SUPPRESS,
        usage="%(prog)s [DIR] [-d NAME] [flags]",
        epilog="Recipes go over these defaults per data set, the command line over both; --dry-run shows what applies.",
    )  # fmt: skip
    groups: dict[str, Any] = {}
    for spec in specs(args_class).values():
        meta = spec.metadata
        if meta["group"] not in groups:
            groups[meta["group"]] = parser.add_argument_group(meta["group"])
        group = groups[meta["group"]]
        default = " ".join(map(str, spec.default)) if spec.sequence else spec.default
        notes = [describe_range(meta), "" if default in (None, "") else f"default {default}"]
        text = meta["help"] + "".join(f" [{note}]" for note in notes if note)
        text = text.replace("%", "%%")
        if meta["positional"]:
            group.add_argument(spec.name, nargs="?", metavar="DIR", help=text)
        elif spec.kind is bool:
            group.add_argument(*meta["names"], spec.option, action=argparse.BooleanOptionalAction, dest=spec.name, help=text)
        else:
            metavar = "{" + ",".join(meta["choices"]) + "}" if meta["choices"] else spec.kind.__name__.upper()
            group.add_argument(
                *meta["names"], spec.option, dest=spec.name, metavar=metavar, nargs="+" if spec.sequence else None, help=text
            )
    return parser


def expand_prefixes(parser: argparse.ArgumentParser, argv: Sequence[str]) -> list[str]:
    """Replace each unique prefix of a long flag by the flag; TLlib's flags first.  FlagError: unknown or ambiguous."""
    known = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    # Shared by all methods here; of TLlib's scripts only self_tuning had --milestones, and all others had the schedule's two.
    foreign = {"lr-scheduler", "lr-decay"} if parser.prog == "self_tuning" else {"milestones"}
    expanded: list[str] = []
    for position, token in enumerate(argv):
        if token == "--":
            return expanded + list(argv[position:])
        name, equals, value = token.partition("=")
        if name.startswith("--") and name not in known:
            hits = [option for option in known if option.startswith(name)]
            tllib = [option for option in hits if option[2:] in TLLIB_FLAGS - foreign]
            if len(tllib) == 1:
                hits = tllib
            if len(hits) > 1:
                raise FlagError(f"{name} is ambiguous: {', '.join(sorted(hits))}")
            if not hits:
                raise FlagError(nearest(name, known, "flag") + " (--help lists all)")
            name = hits[0]
        expanded.append(name + equals + value)
    return expanded


def spell_switches(parser: argparse.ArgumentParser, argv: Sequence[str]) -> list[str]:
    """``--x true``, ``--x=False``, ... as ``--x`` or ``--no-x``.  FlagError: a value attached to a switch that is neither.

    Only a word that is literally true or false, in any case, is the switch's: what else follows may be the data folder.
    """
    pairs = [action for action in parser._actions if isinstance(action, argparse.BooleanOptionalAction)]
    switches = {option for action in pairs for option in action.option_strings}
    spelled: list[str] = []
    before = ""
    for position, token in enumerate(argv):
        name, equals, value = token.partition("=")
        if token == "--":
            return spelled + list(argv[position:])
        if before in switches and token.lower() in TRUTH:
            spelled[-1] = before if TRUTH[token.lower()] else _opposite(before)
        elif equals and name in switches:
            if value.lower() not in TRUTH:
                raise FlagError(f"{name} is a switch: true or false, got {value!r}")
            spelled.append(name if TRUTH[value.lower()] else _opposite(name))
        else:
            spelled.append(token)
        before = token
    return spelled


def _opposite(switch: str) -> str:
    return switch.replace("--no-", "--", 1) if switch.startswith("--no-") else switch.replace("--", "--no-", 1)


def parse(args_class: type, argv: Sequence[str], prog: str, description: str) -> dict[str, Any]:
    """Only the values the command line sets, converted and range-checked.  FlagError names what is wrong."""
    parser = build_parser(args_class, prog, description)
    namespace = parser.parse_args(spell_switches(parser, expand_prefixes(parser, argv)))
    table = specs(args_class)
    return {name: convert(table[name], value) for name, value in vars(namespace).items()}


def check_keys(args_class: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Recipe (or recorded) values as field values; FlagError names `where`, the unknown key and the nearest one."""
    table = specs(args_class)
    checked = {}
    for key, value in values.items():
        if key not in table:
            raise FlagError(f"{where}: {nearest(str(key), table, 'key')}")
        try:
            checked[key] = convert(table[key], value)
        except FlagError as error:
            raise FlagError(f"{where}: {error}") from None
    return checked
