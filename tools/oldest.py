"""The oldest packages that setup.cfg allows, as lines of a pip constraints file.

    python tools/oldest.py > oldest.txt                      # what `pip install .` needs
    python tools/oldest.py test > oldest.txt                 # and what the extra `test` adds
    pip install -c oldest.txt -e ".[test]"

Each line is `name==version`, read from the requirement's `>=version`. Written for a Python that has nothing installed.
"""

from __future__ import annotations

import argparse
import configparser
import re
import sys
from pathlib import Path

SETUP = Path(__file__).resolve().parents[1] / "setup.cfg"
REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?:\[(?P<extras>[A-Za-z0-9_,-]+)\])?(?:>=(?P<lowest>[0-9][0-9.]*))?")


def oldest(setup: str, extras: tuple[str, ...] = ()) -> dict[str, str]:
    """Name -> lowest version, of what the text of a setup.cfg requires, with its own extras followed. A requirement without
    a bound has no place in it.

    Raises:
        ValueError: an extra that is not there, or a requirement that is more than a name and one `>=`.
    """
    parsed = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parsed.read_string(setup)
    project = parsed["metadata"]["name"]
    required, waiting, met = parsed["options"]["install_requires"].split("\n"), list(extras), set()
    found: dict[str, str] = {}
    while required or waiting:
        if not required:
            extra = waiting.pop()
            if extra in met:
                continue
            if extra not in parsed["options.extras_require"]:
                raise ValueError(f"no extra {extra!r} in setup.cfg, which has {', '.join(parsed['options.extras_require'])}")
            met.add(extra)
            required = parsed["options.extras_require"][extra].split("\n")
        line = required.pop().strip()
        match = REQUIREMENT.fullmatch(line)
        if line and match is None:
            raise ValueError(f"setup.cfg: {line!r} is not of the form name>=version")
        if match and match["name"] == project:
            waiting += (match["extras"] or "").split(",")
        elif match and match["lowest"]:
            found[match["name"]] = match["lowest"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extras", nargs="*", help="extras of setup.cfg to include")
    options = parser.parse_args()
    try:
        found = oldest(SETUP.read_text(encoding="utf-8"), tuple(options.extras))
    except ValueError as error:
        sys.exit(f"oldest.py: error: {error}")
    print("\n".join(f"{name}=={found[name]}" for name in sorted(found)))


if __name__ == "__main__":
    main()
