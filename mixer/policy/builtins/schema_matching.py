"""A document held to a JSON schema, with gojsonschema's errors (`validation.go`, `locales.go`)."""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from mixer.policy.builtins.formats import shortest
from mixer.policy.builtins.json_schema import Schema, canonical, is_number, ratio
from mixer.policy.builtins.operands import UnsupportedError
from mixer.policy.builtins.schema_formats import FORMATS, matches

Path = tuple[str, ...]
_ROOT = "(Root)"
_KINDS = {bool: "boolean", str: "string", list: "array", dict: "object", type(None): "null"}


@dataclass(slots=True)
class _Result:
    """`score` tells which of several schemas was the nearest."""

    errors: list[dict[str, str]] = field(default_factory=list)
    score: int = 0

    def add(self, kind: str, path: Path, description: str) -> None:
        where = _field(path)
        self.errors.append(
            {"type": kind, "field": where, "desc": description, "error": f"{where}: {description}"}
        )
        self.score -= 2

    def merge(self, other: "_Result") -> None:
        self.errors += other.errors
        self.score += other.score


def errors(schema: Schema, document: Any) -> list[dict[str, str]]:
    """None of them: the document is valid."""
    return _checked(schema, document, ()).errors


def _field(path: Path) -> str:
    return ".".join(path) if path else _ROOT


def _checked(schema: Schema, node: Any, path: Path) -> _Result:
    result = _Result()
    _check(schema, node, path, result)
    return result


def _check(schema: Schema, node: Any, path: Path, result: _Result) -> None:
    if schema.passes is not None:
        if not schema.passes:
            result.add("false", path, "False always fails validation")
        return
    if schema.reference is not None:
        _check(schema.reference, node, path, result)
        return
    kind = _kind(node)
    fits = kind in schema.types or (kind == "integer" and "number" in schema.types)
    if schema.types and not fits:
        expected = f"[{','.join(schema.types)}]" if len(schema.types) > 1 else schema.types[0]
        result.add("invalid_type", path, f"Invalid type. Expected: {expected}, given: {kind}")
        return
    _combined(schema, node, path, result)
    if isinstance(node, list):
        _array(schema, node, path, result)
    elif isinstance(node, dict):
        _object(schema, node, path, result)
    elif is_number(node):
        _number(schema, ratio(node), path, result)
    _common(schema, node, path, result)
    if isinstance(node, str):
        _string(schema, node, path, result)
    if isinstance(node, dict):
        for name, each in schema.properties.items():
            if name in node:
                _check(each, node[name], (*path, name), result)
    result.score += 1


def _kind(node: Any) -> str:
    if is_number(node):
        return "integer" if ratio(node).denominator == 1 else "number"
    return _KINDS[type(node)]


def _combined(schema: Schema, node: Any, path: Path, result: _Result) -> None:
    if any_of := schema.several.get("anyOf"):
        _any_of(any_of, node, path, result)
    if one_of := schema.several.get("oneOf"):
        _one_of(one_of, node, path, result)
    if all_of := schema.several.get("allOf"):
        checked = [_checked(each, node, path) for each in all_of]
        for each in checked:
            result.merge(each)
        if any(each.errors for each in checked):
            result.add("number_all_of", path, "Must validate all the schemas (allOf)")
    if (negated := schema.parts.get("not")) is not None and not _checked(negated, node, path).errors:
        result.add("number_not", path, "Must not validate the schema (not)")
    if isinstance(node, dict):
        for name in node.keys() & schema.dependencies.keys():
            needed = schema.dependencies[name]
            if isinstance(needed, Schema):
                _check(needed, node, path, result)
                continue
            for other in needed:
                if other not in node:
                    result.add("missing_dependency", path, f"Has a dependency on {other}")
    _conditional(schema, node, path, result)
    result.score += 1


def _best(results: list[_Result]) -> _Result:
    return max(results, key=lambda each: each.score)  # the first of those with the highest


def _any_of(schemas: list[Schema], node: Any, path: Path, result: _Result) -> None:
    failed = []
    for each in schemas:
        checked = _checked(each, node, path)
        if not checked.errors:
            return
        failed.append(checked)
    result.add("number_any_of", path, "Must validate at least one schema (anyOf)")
    result.merge(_best(failed))


def _one_of(schemas: list[Schema], node: Any, path: Path, result: _Result) -> None:
    checked = [_checked(each, node, path) for each in schemas]
    valid = sum(not each.errors for each in checked)
    if valid != 1:
        result.add("number_one_of", path, "Must validate one and only one schema (oneOf)")
        if valid == 0:
            result.merge(_best(checked))


def _conditional(schema: Schema, node: Any, path: Path, result: _Result) -> None:
    if (condition := schema.parts.get("if")) is None:
        return
    holds = not _checked(condition, node, path).errors
    branch = schema.parts.get("then" if holds else "else")
    if branch is None or not (checked := _checked(branch, node, path)).errors:
        return
    if holds:
        result.add("condition_then", path, 'Must validate "then" as "if" was valid')
    else:
        result.add("condition_else", path, 'Must validate "else" as "if" was not valid')
    result.merge(checked)


def _common(schema: Schema, node: Any, path: Path, result: _Result) -> None:
    if schema.constant is not None and canonical(node) != schema.constant:
        result.add("const", path, f"{_field(path)} does not match: {schema.constant}")
    if schema.choices is not None and canonical(node) not in schema.choices:
        allowed = ", ".join(schema.choices)
        result.add("enum", path, f"{_field(path)} must be one of the following: {allowed}")
    known = FORMATS.get(schema.format)
    if known is not None and isinstance(node, str) and not known(node):
        result.add("format", path, f"Does not match format '{schema.format}'")
    result.score += 1


def _array(schema: Schema, node: list[Any], path: Path, result: _Result) -> None:
    given = schema.items
    if isinstance(given, Schema):
        each = [(given, at) for at in range(len(node))]
    else:
        each = list(zip(given, range(len(node)), strict=False))
        more = range(len(given), len(node)) if given else range(0)
        if isinstance(schema.additional_items, Schema):
            each += [(schema.additional_items, at) for at in more]
        elif schema.additional_items is False and more:
            result.add("array_no_additional_items", path, "No additional items allowed on array")
    for item_schema, at in each:
        result.merge(_checked(item_schema, node[at], (*path, str(at))))
    _size(schema, "Items", len(node), path, result)
    if schema.unique:
        _unique(node, path, result)
    if (contained := schema.parts.get("contains")) is not None:
        checked = []
        for at, item in enumerate(node):
            checked.append(_checked(contained, item, (*path, str(at))))
            if not checked[-1].errors:
                break
        else:
            result.add("contains", path, "At least one of the items must match")
            if checked:
                result.merge(_best(checked))
    result.score += 1


_SIZES = {
    "Items": (
        ("array_min_items", "Array must have at least {} items"),
        ("array_max_items", "Array must have at most {} items"),
    ),
    "Properties": (
        ("array_min_properties", "Must have at least {} properties"),
        ("array_max_properties", "Must have at most {} properties"),
    ),
    "Length": (
        ("string_gte", "String length must be greater than or equal to {}"),
        ("string_lte", "String length must be less than or equal to {}"),
    ),
}


def _size(schema: Schema, of: str, size: int, path: Path, result: _Result) -> None:
    (too_few, few), (too_many, many) = _SIZES[of]
    least, most = schema.sizes.get(f"min{of}"), schema.sizes.get(f"max{of}")
    if least is not None and size < least:
        result.add(too_few, path, few.format(least))
    if most is not None and size > most:
        result.add(too_many, path, many.format(most))


def _unique(node: list[Any], path: Path, result: _Result) -> None:
    seen: dict[str, int] = {}
    for at, item in enumerate(map(canonical, node)):
        if item in seen:
            result.add("unique", path, f"array items[{seen[item]},{at}] must be unique")
        seen[item] = at


def _object(schema: Schema, node: dict[str, Any], path: Path, result: _Result) -> None:
    _size(schema, "Properties", len(node), path, result)
    for name in schema.required:
        if name in node:
            result.score += 1
        else:
            result.add("required", path, f"{name} is required")
    for name, value in node.items():
        by_pattern = _by_patterns(schema, name, value, path, result)
        if name in schema.properties or by_pattern:
            continue
        if schema.additional_properties is False:
            result.add("additional_property_not_allowed", path, f"Additional property {name} is not allowed")
        elif isinstance(schema.additional_properties, Schema):
            result.merge(_checked(schema.additional_properties, value, (*path, name)))
    if (names := schema.parts.get("propertyNames")) is not None:
        for name in node:
            checked = _checked(names, name, path)
            if checked.errors:
                result.add("invalid_property_name", path, f'Property name of "{name}" does not match')
                result.merge(checked)
    result.score += 1


def _by_patterns(schema: Schema, name: str, value: Any, path: Path, result: _Result) -> bool:
    found = [each for pattern, each in schema.patterns.items() if matches(pattern, name)]
    for each in found:
        result.merge(_checked(each, value, (*path, name)))
    result.score += bool(found)
    return bool(found)


def _string(schema: Schema, node: str, path: Path, result: _Result) -> None:
    _size(schema, "Length", len(node), path, result)
    if schema.pattern is not None and not matches(schema.pattern, node):
        result.add("pattern", path, f"Does not match pattern '{schema.pattern}'")
    result.score += 1


def _number(schema: Schema, value: Fraction, path: Path, result: _Result) -> None:
    numbers = schema.numbers
    multiple = numbers.get("multipleOf")
    if multiple is not None and (value / multiple).denominator != 1:
        result.add("multiple_of", path, f"Must be a multiple of {_shown(multiple)}")
    if (most := numbers.get("maximum")) is not None and value > most:
        result.add("number_lte", path, f"Must be less than or equal to {_shown(most)}")
    if (most := numbers.get("exclusiveMaximum")) is not None and value >= most:
        result.add("number_lt", path, f"Must be less than {_shown(most)}")
    if (least := numbers.get("minimum")) is not None and value < least:
        result.add("number_gte", path, f"Must be greater than or equal to {_shown(least)}")
    if (least := numbers.get("exclusiveMinimum")) is not None and value <= least:
        result.add("number_gt", path, f"Must be greater than {_shown(least)}")
    result.score += 1


def _shown(number: Fraction) -> str:
    """As Go prints a `big.Float`."""
    nearest = float(number)
    if Fraction(repr(nearest)) != number:
        raise UnsupportedError("a JSON schema with a number of many digits")
    return ("-" if nearest < 0 else "") + shortest(abs(nearest))
