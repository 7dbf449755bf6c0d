"""Rego that regorus' parser does not know, put into what it knows: template strings, the operators `and` and `or`,
and bodies under `not`.

    $"user {input.id}"        mixer.template(["user ", [mixer_0 | mixer_0 := input.id]])
    a or { b; c }             ({1 | a} | {1 | b; c} != set())
    not { a; b }              ({1 | a; b} == set())

An operand of `and`, `or` and of `not` is a scope of its own that succeeds once, which is what a comprehension is
that has an element. Source: OPA's `ast/parser.go` and `topdown/eval.go` (evalLogicalOperand).
"""

import json
import re

from mixer.policy.tokens import ScanError, Token, scan, template_text

TEMPLATE = "mixer.template"  # the builtin that joins a template's parts
_NEWER = re.compile(
    r"^[ \t]*import[ \t]+(future\.keywords(?:\.(?:and|or|not))?|rego\.v2)[ \t]*(?=$|[;#\n\r])", re.MULTILINE
)
_INFIX = frozenset(
    ["=", ":=", "==", "!=", "<", "<=", ">", ">=", "+", "-", "*", "/", "%", "&", "|", ",", "in"]
)


def known(source: str) -> str:
    """The same module, with its lines where they are. Where it cannot be read, it is left for regorus to refuse."""
    try:
        imported = {found[1] for found in _NEWER.finditer(source)}
        text = _NEWER.sub(lambda found: " " * len(found[0]), source)
        if "$" in text:
            text = _templates(text)
        if imported:
            text = _Logic(text, imported).rewritten()
    except (ScanError, RecursionError):
        return source
    return text


def _apply(source: str, edits: list[tuple[int, int, str]], start: int = 0, end: int | None = None) -> str:
    """Edits at one place stand in the order in which they are given."""
    parts: list[str] = []
    for at, until, text in sorted(edits, key=lambda edit: edit[:2]):
        parts += [source[start:at], text]
        start = until
    return "".join((*parts, source[start:end]))


def _templates(source: str, prefix: str = "mixer_") -> str:
    edits = [
        (token.start, token.end, _template(source, token, prefix))
        for token in scan(source)
        if token.kind == "template"
    ]
    return _apply(source, edits)


def _template(source: str, token: Token, prefix: str) -> str:
    raw = source[token.start + 1] == "`"
    parts = []
    for part in token.parts:
        if part.expression:
            parts.append(_captured(source[part.start : part.end], f"{prefix}{part.start}"))
        elif part.start < part.end:
            text = template_text(source, part, raw)
            parts.append(json.dumps(text) if raw else f'"{text}"')
    call = f"{TEMPLATE}([{', '.join(parts)}])"
    lost = token.text.count("\n") - call.count("\n")
    return call[:-2] + "\n" * lost + call[-2:]


def _captured(expression: str, name: str) -> str:
    """The expression's value in a list, empty where it is undefined."""
    text = _templates(expression, f"{name}_")
    depth, end = 0, len(text)
    for token in scan(text):
        depth += (token.text in "([{") - (token.text in ")]}") if token.kind == "operator" else 0
        if depth == 0 and token.text == "with":
            end = token.start
            break
    return f"[{name} | {name} := ({text[:end]}) {text[end:]}]"


class _Logic:
    """Reads a module by its grammar, so far as to know where the operands of `and`, `or` and `not` begin and end."""

    def __init__(self, source: str, imported: set[str]) -> None:
        every = bool(imported & {"rego.v2", "future.keywords"})
        self._operators = {name for name in ("and", "or") if every or f"future.keywords.{name}" in imported}
        self._not_bodies = every or "future.keywords.not" in imported
        self._source = source
        self._tokens = [*scan(source), Token("end", "", len(source), len(source))]
        self._at = 0
        self._edits: list[tuple[int, int, str]] = []

    def rewritten(self) -> str:
        while self._now.kind != "end":
            if self._now.text in ("package", "import"):
                self._next()
                self._term()
                if self._now.text == "as":
                    self._next()
                    self._next()
            else:
                self._rule()
        return _apply(self._source, self._edits)

    @property
    def _now(self) -> Token:
        return self._tokens[self._at]

    def _next(self) -> Token:
        token = self._now
        if token.kind == "end":
            raise ScanError(token.start)
        self._at += 1
        return token

    def _expect(self, text: str) -> Token:
        if self._now.text != text or self._now.kind == "string":
            raise ScanError(self._now.start)
        return self._next()

    def _is_operator(self) -> bool:
        token, following = self._now, self._tokens[min(self._at + 1, len(self._tokens) - 1)]
        called = following.text == "(" and following.start == token.end  # `or(a, b)`, the builtin
        return token.kind == "word" and token.text in self._operators and not called

    def _insert(self, at: int, text: str) -> None:
        self._edits.append((at, at, text))

    def _rule(self) -> None:
        if self._now.text == "default":
            self._next()
        self._term()
        if self._now.text == "contains":
            self._next()
            self._expression()
        self._value_and_body()
        while self._now.text == "else":
            self._next()
            self._value_and_body()

    def _value_and_body(self) -> None:
        if self._now.text in (":=", "="):
            self._next()
            self._expression(stop_at_comma=True)
        if self._now.text == "if":
            self._next()
            if self._now.text == "{" and not self._brace_leads_chain():
                self._braces()
            else:
                self._literal()

    def _braces(self) -> Token:
        """`{ body }`; gives the closing one."""
        self._expect("{")
        self._body("}")
        return self._expect("}")

    def _body(self, closing: str) -> None:
        while self._now.text != closing or self._now.kind == "string":
            if self._now.text == ";":
                self._next()
            else:
                self._literal()

    def _matching(self, at: int) -> int:
        """The index of the token that closes the bracket at an index."""
        depth = 0
        for index in range(at, len(self._tokens)):
            token = self._tokens[index]
            if token.kind == "operator":
                depth += (token.text in "([{") - (token.text in ")]}")
                if depth == 0:
                    return index
        raise ScanError(self._tokens[at].start)

    def _brace_leads_chain(self) -> bool:
        saved = self._at
        self._at = self._matching(saved) + 1
        leads = self._is_operator()
        self._at = saved
        return leads

    def _literal(self) -> None:
        start = self._at
        if self._now.text == "some" and self._tokens[self._at + 1].text not in (".", "["):
            self._next()
            self._expression()
        elif self._now.text == "every":
            self._next()
            self._expression()
            self._braces()
        else:
            self._chain()
        self._modifiers()
        if self._at == start:
            raise ScanError(self._now.start)

    def _chain(self) -> None:
        """Operands with `and` and `or` between; one alone stays as it is. `&` binds as `and` does, `|` as `or`."""
        edits, start, began = len(self._edits), self._now.start, self._at
        leads = self._now.text == "{" and self._brace_leads_chain()
        wrapped = self._operand(leads)
        if not self._is_operator():
            return
        self._edits.insert(edits, (start, start, "(" if leads else "({1 | "))
        if leads:
            self._edits.insert(edits + 1, (self._tokens[began].end, self._tokens[began].end, "1 | "))
        else:
            self._insert(wrapped, " }")
        end = wrapped
        while self._is_operator():
            operator = self._next()
            self._edits.append((operator.start, operator.end, "&" if operator.text == "and" else "|"))
            end = self._right_operand()
        self._insert(end, " != set())")

    def _right_operand(self) -> int:
        if self._now.text == "{":
            opening = self._now
            self._insert(opening.end, "1 | ")
            return self._braces().end
        self._insert(self._now.start, "{1 | ")
        end = self._operand(False)
        self._insert(end, " }")
        return end

    def _operand(self, body: bool) -> int:
        """One operand; gives where it ends."""
        if body:
            return self._braces().end
        if self._now.text == "not" and self._tokens[self._at + 1].text not in (".", "["):
            return self._negation()
        self._expression()
        return self._tokens[self._at - 1].end

    def _negation(self) -> int:
        word = self._next()
        if not self._not_bodies:
            self._expression()
            return self._tokens[self._at - 1].end
        if self._now.text == "{":
            self._edits.append((word.start, word.end, "("))
            self._insert(self._now.end, "1 | ")
            end = self._braces().end
        else:
            self._edits.append((word.start, word.end, "({1 |"))
            self._expression()
            end = self._tokens[self._at - 1].end
            self._insert(end, " }")
        self._insert(end, " == set())")
        return end

    def _expression(self, *, stop_at_comma: bool = False, head: bool = False) -> None:
        self._term()
        while self._now.text in _INFIX and self._now.kind != "string":
            if (stop_at_comma and self._now.text == ",") or (head and self._now.text == "|"):
                return
            self._next()
            self._term()

    def _term(self) -> None:
        token = self._now
        if token.text == "-" and token.kind == "operator":
            self._next()
            token = self._now
        if token.kind == "operator":
            if token.text == "(":
                self._group()
            elif token.text in ("[", "{"):
                self._collection()
            else:
                raise ScanError(token.start)
        else:
            self._next()
        self._rest_of_term()

    def _rest_of_term(self) -> None:
        """`.name`, `[index]` and `(operands)`, which follow without a space."""
        while self._now.kind == "operator" and self._now.start == self._tokens[self._at - 1].end:
            if self._now.text == ".":
                self._next()
                self._next()
            elif self._now.text == "[":
                self._next()
                self._items("]")
            elif self._now.text == "(":
                self._next()
                self._items(")")
            else:
                return

    def _group(self) -> None:
        opening, edits = self._next(), len(self._edits)
        self._chain()
        if self._now.text == "with":
            self._edits.insert(edits, (opening.end, opening.end, "{1 | "))
            self._modifiers()
            self._insert(self._now.start, " } != set()")
        self._expect(")")

    def _modifiers(self) -> None:
        while self._now.text == "with":
            self._next()
            self._term()
            self._expect("as")
            self._expression(stop_at_comma=True)

    def _collection(self) -> None:
        closing = "]" if self._next().text == "[" else "}"
        if self._now.text == closing:
            self._next()
            return
        self._expression(stop_at_comma=True, head=True)
        if self._now.text == ":":
            self._next()
            self._expression(stop_at_comma=True, head=True)
        if self._now.text == "|":
            self._next()
            self._body(closing)
            self._expect(closing)
            return
        self._items(closing)

    def _items(self, closing: str) -> None:
        while self._now.text != closing or self._now.kind == "string":
            if self._now.text in (",", ":") and self._now.kind == "operator":
                self._next()
            else:
                self._expression(stop_at_comma=True)
        self._next()
