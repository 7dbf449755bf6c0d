"""`lower` and `upper` by Unicode's simple mapping, one character for one, as Go's `strings` has it."""

from mixer.policy.builtins.operands import string


def _lower(text: object) -> str:
    value = string(text)
    return value.lower() if value.isascii() else "".join(character.lower()[0] for character in value)


def _upper(text: object) -> str:
    value = string(text)
    return value.upper() if value.isascii() else "".join(map(_upper_one, value))


def _upper_one(character: str) -> str:
    for mapped in (character.upper(), character.title()):
        if len(mapped) == 1:
            return mapped
    return character


BUILTINS = {"lower": _lower, "upper": _upper}
