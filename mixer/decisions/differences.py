"""Where two decisions differ."""

from typing import Any

from mixer.decisions.mask import escaped

_MOST = 32  # paths


def differences(live: Any, candidate: Any) -> list[str]:
    """The paths at which the candidate's decision is another than the live one, "/result/headers/x-user", in order; the
    first 32 of them. A boolean is an object that holds `allowed` alone."""
    found: list[str] = []
    todo: list[tuple[tuple[str, ...], Any, Any]] = [(("result",), _whole(live), _whole(candidate))]
    while todo and len(found) < _MOST:
        path, one, other = todo.pop()
        if isinstance(one, dict) and isinstance(other, dict):
            names = sorted(one.keys() | other.keys(), reverse=True)
            todo += (((*path, name), one.get(name, _NONE), other.get(name, _NONE)) for name in names)
        elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
            todo += (((*path, str(index)), one[index], other[index]) for index in reversed(range(len(one))))
        elif one != other or isinstance(one, bool) != isinstance(other, bool):
            found.append(escaped(path))
    return found


_NONE = object()


def _whole(decision: Any) -> Any:
    return {"allowed": decision} if isinstance(decision, bool) else decision
