"""YAML that must not be read: some lines of it can stand for billions of values, or more levels than C's stack has.

PyYAML has no limits. A text that may be beyond ours is gone through by its events first, which are had one by one.
"""

import re
from typing import cast

import yaml

MOST_NESTED = 100  # levels; libyaml takes the square of them in time, PyYAML ends the process at some 20,000
_MOST_ALIASED = 100_000  # values that stand in the text only by aliases
_OPENS = re.compile(r"[\[{]")
_BEFORE = re.compile(r"^[ \t?:-]+", re.MULTILINE)  # what stands before a line's text


def check(text: str) -> None:
    """Raises `yaml.MarkedYAMLError` for a text that is nested too deeply, or whose aliases are too much. What is no
    YAML is for the reader to tell."""
    if "*" not in text and _levels(text) <= MOST_NESTED:
        return
    try:
        _go_through(text)
    except (yaml.scanner.ScannerError, yaml.parser.ParserError, yaml.reader.ReaderError):
        return


def _levels(text: str) -> int:
    """As many as there may be, or more."""
    indented = max((len(each) for each in _BEFORE.findall(text)), default=0)
    return indented + len(_OPENS.findall(text)) + 1


def _go_through(text: str) -> None:
    sizes: dict[str, int] = {}  # of what has an anchor: values in it, aliases gone along
    above: list[tuple[str | None, int]] = []  # anchors, and values before them
    values = aliased = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor or "", 1)
            values, aliased = values + size, aliased + size
            if aliased > _MOST_ALIASED:
                raise _refused(f"its aliases stand for more than {_MOST_ALIASED} values", event)
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            above.append((event.anchor, values))
            values += 1
            if len(above) > MOST_NESTED:
                raise _refused(f"nests more than {MOST_NESTED} levels deep", event)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = above.pop()
            if anchor is not None:
                sizes[anchor] = values - before


def _refused(what: str, event: yaml.Event) -> yaml.MarkedYAMLError:
    mark = event.start_mark  # libyaml's own, which has what PyYAML's has
    return yaml.MarkedYAMLError(None, None, what, cast("yaml.Mark | None", mark))
