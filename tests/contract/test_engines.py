"""What every policy engine promises: the same policies and inputs, the same answers, embedded and by a real OPA."""

# ruff: noqa: E501 (tables: a case a line)

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from mixer import config
from mixer.errors import DecisionError
from mixer.policy.engine import Evaluation, OutdatedError, PolicyEngine
from mixer.policy.opa import OpaEngine
from mixer.policy.regorus import EmbeddedEngine
from tests.components.processes import Opa

Decide = Callable[..., list[Any]]


async def evaluate(engine: PolicyEngine, document: object, timeout: float | None = None) -> Any:
    """The decision, or the reason why there is none."""
    while True:
        try:
            answer = engine.evaluate(json.dumps(document).encode(), timeout)
            evaluation = answer if isinstance(answer, Evaluation) else await answer
        except DecisionError as error:
            return ("no decision", error.reason)
        except OutdatedError:
            continue  # all of the input is in the document
        return json.loads(evaluation.decision)


def decide_all(engine: PolicyEngine, documents: Sequence[object]) -> list[Any]:
    async def run() -> list[Any]:
        await engine.start()
        try:
            return [await evaluate(engine, document) for document in documents]
        finally:
            await engine.close()

    return asyncio.run(run())


@pytest.fixture(params=["embedded", "opa"])
def decide(request: pytest.FixtureRequest, tmp_path: Path) -> Decide:
    """Decisions of `data.p.allow` over documents, by each engine."""

    def embedded(policy: str, documents: Sequence[object], data: object = None) -> list[Any]:
        (tmp_path / "p.rego").write_text(policy)
        (tmp_path / "data.json").write_text(json.dumps(data or {}))
        return decide_all(EmbeddedEngine(config.Policy(paths=(tmp_path,), decision="p/allow")), documents)

    def by_opa(policy: str, documents: Sequence[object], data: object = None) -> list[Any]:
        server: Opa = request.getfixturevalue("opa_server")
        assert server.call("PUT", "/v1/policies/p", policy)[0] == 200
        assert server.call("PUT", "/v1/data", data or {})[0] == 204
        settings = config.Policy(engine="opa", opa=config.Opa(url=server.url), decision="p/allow")
        return decide_all(OpaEngine(settings), documents)

    return embedded if request.param == "embedded" else by_opa


UNDEFINED = ("no decision", "undefined")
FAILED = ("no decision", "evaluation")


@pytest.mark.parametrize(
    ("body", "documents", "expected"),
    [
        ("allow := true", [{}], [True]),
        ('default allow := false\nallow if input.m == "GET"', [{"m": "GET"}, {"m": "PUT"}, {}], [True, False, False]),
        ('allow if input.m == "GET"', [{"m": "GET"}, {"m": "PUT"}], [True, UNDEFINED]),
        (
            'allow := {"allowed": true, "headers": {"x-u": input.u}, "n": [1, 2.5, null, "é"]}',
            [{"u": "a"}, {}],
            [{"allowed": True, "headers": {"x-u": "a"}, "n": [1, 2.5, None, "é"]}, UNDEFINED],
        ),
        ('allow["allowed"] := true\nallow["body"] := input.b', [{"b": "x"}, {}], [{"allowed": True, "body": "x"}, {"allowed": True}]),
        ("allow.allowed := true\nallow.n := input.n", [{"n": 1}], [{"allowed": True, "n": 1}]),
        ("allow := data.roles[input.u]", [{"u": "a"}, {"u": "z"}], ["admin", UNDEFINED]),
        ("allow := input.x", [{"x": "text"}, {"x": None}, {"x": {"a": 1}}], ["text", None, {"a": 1}]),
        ("allow := [1, input.nope]", [{}], [UNDEFINED]),
        ("allow := count(denials) == 0\ndenials contains x if some x in input.xs", [{"xs": []}, {"xs": [1]}], [True, False]),
        ("allow := {x | some x in input.xs; x > 1} == {2, 3}", [{"xs": [3, 1, 2]}, {"xs": [1]}], [True, False]),
        ("allow if every x in input.xs { x > 1 }", [{"xs": [2]}, {"xs": []}, {"xs": [1]}], [True, True, UNDEFINED]),
        ("allow := f(input.a)\nf(x) := x + 1 if x > 0\nf(x) := 0 if x <= 0", [{"a": 2}, {"a": -2}, {}], [3, 0, UNDEFINED]),
        ("allow := y if { some i; input.xs[i] == 7; y := i }", [{"xs": [5, 7]}, {"xs": []}], [1, UNDEFINED]),
        ("allow := x if x := inner with input.a as 5\ninner := input.a", [{"a": 1}], [5]),
        ('allow := "a" if input.a\nelse := "b" if input.b\nelse := "c"', [{"a": 1}, {"b": 1}, {}], ["a", "b", "c"]),
        ("allow := object.get(input, [\"a\", \"b\"], 0)", [{"a": {"b": 1}}, {}], [1, 0]),
        ('allow := regex.match("^/v[0-9]+/", input.p)', [{"p": "/v1/x"}, {"p": "/x"}], [True, False]),
        ('allow := glob.match("*.example", ["."], input.h)', [{"h": "a.example"}, {"h": "a.b.example"}], [True, False]),
        ('allow := net.cidr_contains("10.0.0.0/8", input.ip)', [{"ip": "10.1.1.1"}, {"ip": "11.1.1.1"}], [True, False]),
        ('allow := sprintf("%s-%d", [input.s, input.n])', [{"s": "a", "n": 3}], ["a-3"]),
        # a builtin's error is undefined
        ("allow := to_number(input.x)", [{"x": "5"}, {"x": "five"}], [5, UNDEFINED]),
        ("default allow := false\nallow if json.unmarshal(input.x).ok", [{"x": '{"ok": true}'}, {"x": "{"}], [True, False]),
        ('default allow := false\nallow if startswith(input.x, "a")', [{"x": "ab"}, {"x": 1}, {}], [True, False, False]),
        ("allow if not to_number(input.x)", [{"x": "five"}, {"x": "5"}], [True, UNDEFINED]),
        ("allow := x if x := base64.decode(input.x)\nelse := 0", [{"x": "YQ=="}, {"x": "%"}], ["a", 0]),
        # an error of the policy is no decision
        ("allow := 1 if input.a\nallow := 2 if input.b", [{"a": 1}, {"a": 1, "b": 1}], [1, FAILED]),
        ("allow := f(1)\nf(x) := 1 if input.a\nf(x) := 2 if input.b", [{"b": 1}, {"a": 1, "b": 1}], [2, FAILED]),
        ('allow := {k: v | some [k, v] in input.kv}', [{"kv": [["a", 1]]}, {"kv": [["a", 1], ["a", 2]]}], [{"a": 1}, FAILED]),
        ("import rego.v1\nallow := crypto.sha256(input.s)", [{"s": ""}], ["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]),
    ],
)  # fmt: skip
def test_policy_decides(decide: Decide, body: str, documents: list[object], expected: list[object]) -> None:
    assert decide(f"package p\n\n{body}\n", documents, {"roles": {"a": "admin"}}) == expected


# Tokens

RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
SECRET = "a secret of the tests that is as long as RFC 7518 asks for SHA-512: 64 bytes or more"
NOW = int(time.time())


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> str:
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def pkcs1(key: rsa.RSAPrivateKey) -> str:
    return (
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1).decode()
    )


def signed(payload: str | bytes, **header: str) -> str:
    """A token of any payload, by HS256."""
    data = payload.encode() if isinstance(payload, str) else payload
    return jwt.PyJWS().encode(data, SECRET, "HS256", headers=header)


def jwk(key: Any, algorithm: Any, **more: str) -> dict[str, Any]:
    return {**json.loads(algorithm.to_jwk(key.public_key())), **more}


JWKS = json.dumps(
    {
        "keys": [
            jwk(OTHER_RSA_KEY, jwt.algorithms.RSAAlgorithm, kid="old", alg="RS256"),
            jwk(RSA_KEY, jwt.algorithms.RSAAlgorithm, kid="new", alg="RS256"),
            jwk(EC_KEY, jwt.algorithms.ECAlgorithm, kid="curve"),
            jwk(ED_KEY, jwt.algorithms.OKPAlgorithm, kid="ed"),
        ]
    }
)
CLAIMS = {"sub": "alice", "iss": "tests", "exp": NOW + 1000}
VALID = [True, "alice"]
INVALID = [False, None]


def token(key: Any = RSA_KEY, alg: str = "RS256", kid: str | None = None, **claims: Any) -> str:
    payload = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
    return jwt.encode(payload, key, alg, headers={"kid": kid} if kid else None)


def unsigned(payload: str = "e30", header: str = "eyJhbGciOiJub25lIn0") -> str:
    return f"{header}.{payload}."


DECODE_VERIFY = """package p

allow := [valid, object.get(claims, "sub", null)] if [valid, _, claims] := io.jwt.decode_verify(input.token, input.rules)
"""


@pytest.mark.parametrize(
    ("text", "rules", "expected"),
    [
        (token(), {"cert": pem(RSA_KEY)}, VALID),
        (token(alg="PS384"), {"cert": pem(RSA_KEY)}, VALID),
        (token(EC_KEY, "ES256"), {"cert": pem(EC_KEY), "alg": "ES256"}, VALID),
        (token(ED_KEY, "EdDSA"), {"cert": pem(ED_KEY)}, VALID),
        (token(SECRET, "HS512"), {"secret": SECRET}, VALID),
        (token(), {"cert": JWKS}, VALID),
        (token(kid="new"), {"cert": JWKS}, VALID),
        (token(kid="old"), {"cert": JWKS}, INVALID),
        (token(kid="unknown"), {"cert": JWKS}, VALID),
        (token(EC_KEY, "ES256", kid="curve"), {"cert": JWKS}, VALID),
        (token(ED_KEY, "EdDSA", kid="ed"), {"cert": JWKS}, VALID),
        (token(OTHER_RSA_KEY), {"cert": pem(RSA_KEY)}, INVALID),
        (token(), {"cert": pem(RSA_KEY), "alg": "RS512"}, INVALID),
        (token(exp=NOW - 1), {"cert": pem(RSA_KEY)}, INVALID),
        (token(nbf=NOW + 1000), {"cert": pem(RSA_KEY)}, INVALID),
        (token(nbf=NOW - 1000), {"cert": pem(RSA_KEY)}, VALID),
        (token(nbf="x"), {"cert": pem(RSA_KEY)}, UNDEFINED),
        (token(nbf="x", exp=NOW - 1), {"cert": pem(RSA_KEY)}, INVALID),
        (token(nbf=NOW + 1000, exp="x"), {"cert": pem(RSA_KEY)}, UNDEFINED),
        (token(exp=None), {"cert": pem(RSA_KEY)}, VALID),
        (token(), {"cert": pem(RSA_KEY), "time": (NOW + 2000) * 10**9}, INVALID),
        (token(), {"cert": pem(RSA_KEY), "iss": "tests"}, VALID),
        (token(), {"cert": pem(RSA_KEY), "iss": "others"}, INVALID),
        (token(iss=None), {"cert": pem(RSA_KEY), "iss": "tests"}, INVALID),
        (token(aud="me"), {"cert": pem(RSA_KEY), "aud": "me"}, VALID),
        (token(aud=["you", "me"]), {"cert": pem(RSA_KEY), "aud": "me"}, VALID),
        (token(aud="you"), {"cert": pem(RSA_KEY), "aud": "me"}, INVALID),
        (token(aud="me"), {"cert": pem(RSA_KEY)}, INVALID),
        (token(), {"cert": pem(RSA_KEY), "aud": "me"}, INVALID),
        # an RSA public key is no HMAC secret
        (token("x" * 40, "HS256"), {"cert": pem(RSA_KEY)}, INVALID),
        (unsigned(), {"cert": pem(RSA_KEY)}, INVALID),
        (token() + "x", {"cert": pem(RSA_KEY)}, INVALID),
        # a key is one PEM block, or JSON
        (token(), {"cert": "Subject: x\n" + pem(RSA_KEY)}, VALID),
        (token(), {"cert": pem(RSA_KEY) + "x"}, UNDEFINED),
        (token(), {"cert": pem(RSA_KEY) + pem(OTHER_RSA_KEY)}, UNDEFINED),
        (token(), {"cert": " " + pem(RSA_KEY)}, UNDEFINED),
        (token(), {"cert": pkcs1(RSA_KEY)}, UNDEFINED),
        # a token within a token
        (signed(inner := signed('{"sub": "alice"}'), cty="JWT"), {"secret": SECRET}, VALID),
        (signed(inner, cty="jwt"), {"secret": SECRET}, VALID),
        (signed(f'"{inner}"', cty="JWT"), {"secret": SECRET}, UNDEFINED),
        (signed(b'{"sub": "ali\xffce"}'), {"secret": SECRET}, [True, "ali\ufffdce"]),
        # errors of the builtin
        ("garbage", {"cert": pem(RSA_KEY)}, UNDEFINED),
        ("a.b.c", {"cert": pem(RSA_KEY)}, UNDEFINED),
        (unsigned(header="bm8"), {"cert": pem(RSA_KEY)}, UNDEFINED),
        (5, {"cert": pem(RSA_KEY)}, UNDEFINED),
        (token(), {"cert": "no key"}, UNDEFINED),
        (token(), {}, UNDEFINED),
        (token(), {"cert": pem(RSA_KEY), "secret": SECRET}, UNDEFINED),
        (token(), {"cert": pem(RSA_KEY), "isss": "tests"}, UNDEFINED),
        (token(), {"cert": pem(RSA_KEY), "iss": 5}, UNDEFINED),
        (unsigned("bm8"), {"secret": SECRET}, INVALID),
    ],
)  # fmt: skip
def test_token_is_verified(decide: Decide, text: object, rules: dict[str, Any], expected: object) -> None:
    assert decide(DECODE_VERIFY, [{"token": text, "rules": rules}]) == [expected]


@pytest.mark.parametrize(
    ("call", "documents", "expected"),
    [
        ("io.jwt.decode(input.t)[1].sub", [token(), "x", "a.b.c", unsigned("WzFd")], ["alice", *[UNDEFINED] * 3]),
        ("io.jwt.verify_rs256(input.t, input.k)", [token(), token(OTHER_RSA_KEY), "x"], [True, False, UNDEFINED]),
        ("io.jwt.verify_rs512(input.t, input.k)", [token(alg="RS512"), token()], [True, False]),
        ("io.jwt.verify_ps256(input.t, input.k)", [token(alg="PS256"), token()], [True, False]),
        ("io.jwt.verify_es256(input.t, input.e)", [token(EC_KEY, "ES256"), token()], [True, False]),
        ("io.jwt.verify_eddsa(input.t, input.ed)", [token(ED_KEY, "EdDSA"), token()], [True, False]),
        ("io.jwt.verify_hs256(input.t, input.s)", [token(SECRET, "HS256"), token(), "x"], [True, False, UNDEFINED]),
        ("io.jwt.verify_hs256(input.t, input.s)", ["a.b.Yw", "a.b.!", "a.b", "a.b.c.d"], [False, *[UNDEFINED] * 3]),
        ("io.jwt.decode(input.t)[1].sub", [signed(f'"{signed(json.dumps(CLAIMS))}"', cty="JWT")], ["alice"]),
    ],
)  # fmt: skip
def test_signature_is_verified(
    decide: Decide, call: str, documents: list[str], expected: list[object]
) -> None:
    keys = {"k": pem(RSA_KEY), "e": pem(EC_KEY), "ed": pem(ED_KEY), "s": SECRET}
    assert decide(f"package p\n\nallow := {call}\n", [{"t": t, **keys} for t in documents]) == expected


# An OPA server that fails


def engine_of(server: Opa, timeout: float = 1.0) -> OpaEngine:
    return OpaEngine(
        config.Policy(engine="opa", opa=config.Opa(url=server.url, timeout=f"{timeout}s"), decision="p/allow")  # type: ignore[arg-type]
    )


def test_opa_over_a_unix_socket(start_opa: Callable[..., Opa]) -> None:
    server = start_opa(unix=True)
    server.call("PUT", "/v1/policies/p", "package p\n\nallow := input.a\n")
    assert decide_all(engine_of(server), [{"a": 1}, {}]) == [1, UNDEFINED]


def test_opa_that_hangs_is_a_timeout_and_one_that_is_back_decides(start_opa: Callable[..., Opa]) -> None:
    server = start_opa()
    server.call("PUT", "/v1/policies/p", "package p\n\nallow := true\n")

    async def run() -> None:
        engine = engine_of(server, timeout=1.0)
        await engine.start()
        assert await evaluate(engine, {}) is True
        server.pause()
        assert await evaluate(engine, {}) == ("no decision", "timeout")
        start = time.monotonic()
        assert await evaluate(engine, {}, timeout=0.05) == ("no decision", "timeout")
        assert time.monotonic() - start < 0.8, "the caller's shorter deadline was not kept"
        server.resume()
        assert await evaluate(engine, {}) is True
        assert await engine.ready() is None
        await engine.close()

    asyncio.run(run())


def test_opa_that_is_away_is_unavailable_until_it_is_back(start_opa: Callable[..., Opa]) -> None:
    server = start_opa()
    server.stop()

    async def run() -> None:
        engine = engine_of(server)
        await engine.start()
        assert await evaluate(engine, {}) == ("no decision", "unavailable")
        assert await engine.ready() == f"OPA at {server.url} is away"
        server.start()
        server.call("PUT", "/v1/policies/p", "package p\n\nallow := true\n")
        assert await evaluate(engine, {}) is True
        server.stop()
        assert await evaluate(engine, {}) == ("no decision", "unavailable")
        await engine.close()

    asyncio.run(run())
