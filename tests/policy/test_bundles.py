"""OPA bundles: those that the real OPA makes are read, and those that it refuses are refused."""

import contextlib
import datetime
import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer.errors import BundleError, PolicyError
from mixer.policy import bundle, sources
from mixer.policy.program import Program
from tests.policy.bundles import MODULE, built, opa, pem, signed, tarball, verifier

LIMIT = 1 << 20
USERS = json.dumps({"alice": {"roles": ["admin"], "age": 41, "score": 1.50, "note": 'é<&>\u2028"\\\n\x7f'}})
YAML = "a: 1.0\nb: [1e3, 0x10, 1e21, 0.00001, 1e-7, -0.5, 12345678901234567890]\nc: no\nd: 'ü'\n"
FILES = {
    "authz.rego": 'package envoy.authz\n\nallow if "admin" in data.roles.users[input.user].roles\n',
    "roles/users/data.json": USERS,
    "more/deep/data.yaml": YAML,
    "list/data.json": "[1, 2.0, 3e2]",
    ".manifest": json.dumps({"revision": "v7", "roots": ["envoy", "roles", "more/deep", "list"]}),
}


def read(raw: bytes, **more: object) -> bundle.Bundle:
    return bundle.read("b.tar.gz", raw, LIMIT, more.get("verifier"))  # type: ignore[arg-type]


def mistakes(raw: bytes, **more: object) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        read(raw, **more)
    return str(caught.value).splitlines()


# What OPA makes


def test_bundle_of_opa_is_read_and_decides(tmp_path: Path) -> None:
    file = built(tmp_path, FILES)
    loaded = sources.load([file])
    assert loaded.revision == "v7"
    assert loaded.data["list"] == [1, 2.0, 300.0]
    assert loaded.data["roles"]["users"]["alice"]["roles"] == ["admin"]
    program = Program(loaded, "envoy/authz/allow")
    assert program.evaluate(b'{"user": "alice"}') == "true"
    assert program.evaluate(b'{"user": "bob"}') is None
    shown = json.loads(opa("eval", "-b", file, "-f", "values", "data.more").stdout)
    assert loaded.data["more"] == shown[0]


def test_bundle_without_a_revision_has_one_of_its_files(tmp_path: Path) -> None:
    first = read(tarball({"a.rego": MODULE})).revision
    assert len(first) == 12
    assert read(tarball({"a.rego": MODULE})).revision == first
    assert read(tarball({"b.rego": MODULE})).revision != first
    assert read(tarball({"a.rego": MODULE, "data.json": "{}"})).revision != first


def test_folder_with_a_manifest_is_a_bundle(tmp_path: Path) -> None:
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert sources.load([tmp_path]).revision == "v7"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data.json").write_text("{}")
    with pytest.raises(PolicyError, match=r"data\.other: is outside of the roots"):
        sources.load([tmp_path])


ALGORITHMS = {
    "RS256": lambda: pem(rsa.generate_private_key(65537, 2048)),
    "PS384": lambda: pem(rsa.generate_private_key(65537, 2048)),
    "ES256": lambda: pem(ec.generate_private_key(ec.SECP256R1())),
    "ES512": lambda: pem(ec.generate_private_key(ec.SECP521R1())),
    "HS256": lambda: ("s" * 40, "s" * 40),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_signature_of_opa_verifies(tmp_path: Path, algorithm: str) -> None:
    private, public = ALGORITHMS[algorithm]()
    (tmp_path / "key.pem").write_text(private)
    key = private if algorithm == "HS256" else tmp_path / "key.pem"
    file = built(tmp_path, FILES, "--signing-key", key, "--signing-alg", algorithm)
    right = verifier(public, algorithm, key_id="default")
    assert bundle.read(str(file), file.read_bytes(), LIMIT, right).revision == "v7"
    _, other = ALGORITHMS[algorithm]()
    wrong = verifier("t" * 40 if algorithm == "HS256" else other, algorithm, key_id="default")
    [found] = mistakes(file.read_bytes(), verifier=wrong)
    assert (
        found
        == 'b.tar.gz/.signatures.json: does not verify: not a signature of key "default" by ' + algorithm
    )


numbers = st.one_of(
    st.integers(-(10**25), 10**25),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([1.0, 1e21, 1e-7, -0.0]),
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
documents = st.dictionaries(
    texts,
    st.recursive(
        st.one_of(st.none(), st.booleans(), numbers, texts),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


@settings(max_examples=25)
@given(documents)
def test_any_data_signed_by_opa_verifies(tmp_path_factory: pytest.TempPathFactory, document: object) -> None:
    files = {"a.rego": MODULE, "x/data.json": json.dumps(document, indent=1)}
    file = built(
        tmp_path_factory.mktemp("signed"), files, "--signing-key", "s" * 40, "--signing-alg", "HS256"
    )
    try:
        read(file.read_bytes(), verifier=verifier("s" * 40, key_id="default"))
    except BundleError as error:
        raise AssertionError(str(error)) from None
    except PolicyError:
        pass  # its numbers are beyond what data may hold; the signature is right


def test_folder_signed_by_opa_verifies_with_its_yaml(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name, text in {**FILES, "more/deep/yet/data.yml": '{"a": 1.50, "b": 1E2}'}.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    made = opa("sign", "--signing-key", "s" * 40, "--signing-alg", "HS256", "-b", ".", folder=folder)
    assert made.returncode == 0, made.stderr
    right = verifier("s" * 40, key_id="default")
    assert sources.load([folder], verifier=right).revision == "v7"
    (folder / "more/deep/data.yaml").write_text(YAML.replace("0x10", "17"))
    with pytest.raises(PolicyError, match=r"more/deep/data\.yaml: is not what was signed"):
        sources.load([folder], verifier=right)


def test_file_changed_after_signing_is_refused(tmp_path: Path) -> None:
    file = built(tmp_path, FILES, "--signing-key", "s" * 40, "--signing-alg", "HS256")
    with tarfile.open(file) as archive:
        files = {
            entry.name.lstrip("/"): archive.extractfile(entry).read()  # type: ignore[union-attr]
            for entry in archive
            if entry.isreg()
        }
    right = verifier("s" * 40, key_id="default")
    assert read(tarball(files), verifier=right).revision == "v7"
    [module] = [name for name in files if name.endswith(".rego")]
    changes = {
        module: files[module] + b"\n",
        "data.json": files["data.json"].replace(b"41", b"42"),
        ".manifest": files[".manifest"].replace(b"v7", b"v8"),
    }
    for name, text in changes.items():
        [found] = mistakes(tarball({**files, name: text}), verifier=right)
        assert found == f"b.tar.gz/{name}: is not what was signed: its SHA-256 digest is another"
    [found] = mistakes(tarball({**files, "new.rego": MODULE}), verifier=right)
    assert found == "b.tar.gz/new.rego: is not among the files that were signed"
    fewer = {name: text for name, text in files.items() if name != "data.json"}
    [found] = mistakes(tarball(fewer), verifier=right)
    assert found.startswith("b.tar.gz: lacks files that its signature names: ")


KEY = verifier("sesame".ljust(32))


def test_unsigned_bundle_is_refused_where_there_are_keys() -> None:
    [found] = mistakes(tarball({"a.rego": MODULE}), verifier=KEY)
    assert found.endswith("does not verify: the bundle is not signed, and policy.keys asks for it")


def test_signed_bundle_is_refused_without_keys() -> None:
    assert mistakes(tarball(signed({"a.rego": MODULE}))) == [
        "b.tar.gz/.signatures.json: the bundle is signed; give its key in policy.keys"
    ]


@pytest.mark.parametrize(
    ("claims", "options", "reason"),
    [
        ({"scope": "write"}, {}, 'its scope is "write", expected ""'),
        ({}, {"scope": "write"}, 'its scope is "", expected "write"'),
        ({}, {"key_id": "other"}, 'policy.keys has no key "other"'),
    ],
)
def test_signature_for_something_else_is_refused(
    claims: dict[str, str], options: dict[str, str], reason: str
) -> None:
    raw = tarball(signed({"a.rego": MODULE}, **claims))
    [found] = mistakes(raw, verifier=verifier("sesame".ljust(32), **options))
    assert found.endswith(reason)


def test_excluded_file_needs_no_signature() -> None:
    files = signed({"a.rego": MODULE}) | {"x/data.json": "{}"}
    assert "is not among" in mistakes(tarball(files), verifier=KEY)[0]
    assert read(tarball(files), verifier=verifier("sesame".ljust(32), exclude=("x/*.json",))).data == {
        "x": {}
    }


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"signatures": []}', '{"signatures": [5]}', '{"signatures": ["a.b"]}',
     '{"signatures": ["a.b.c"]}', '{"signatures": ["W10.W10.c"]}', '{"signatures": ["\\ud800.b.c"]}'],
)  # fmt: skip
def test_garbage_for_a_signature_is_refused(text: str) -> None:
    raw = tarball({"a.rego": MODULE, ".signatures.json": text})
    assert mistakes(raw, verifier=KEY)[0].startswith("b.tar.gz/.signatures.json: does not verify: ")


# What OPA refuses

REFUSED = {
    "overlapping roots": ({".manifest": '{"roots": ["a/b", "a"]}'}, 'roots "a/b" and "a" overlap'),
    "module outside": (
        {".manifest": '{"roots": ["envoy/other"]}'},
        'package envoy.authz is outside of the roots: "envoy/other"',
    ),
    "prefix is no root": ({".manifest": '{"roots": ["envoy/aut"]}'}, "package envoy.authz is outside"),
    "data outside": (
        {".manifest": '{"roots": ["envoy"]}', "x/data.json": '{"y": 1}'},
        'data.x: is outside of the roots: "envoy"',
    ),
    "leaf above a root": (
        {".manifest": '{"roots": ["envoy", "x/y"]}', "data.json": '{"x": 1}'},
        "data.x: is outside of the roots",
    ),
    "no roots": ({".manifest": '{"roots": []}'}, "is outside of the roots: none"),
    "two manifests": ({".manifest": "{}", "x/.manifest": "{}"}, "is one of several manifests"),
    "manifest is no JSON": ({".manifest": "{"}, ".manifest: is not JSON"),
    "manifest is no object": ({".manifest": "[]"}, ".manifest: must be an object"),
    "revision is no text": ({".manifest": '{"revision": 5}'}, "revision must be a string"),
    "roots are no list": ({".manifest": '{"roots": "a"}'}, "roots must be an array of strings"),
    "data is no JSON": ({"data.json": "{"}, "data.json: line 1, column 2: is not JSON"),
    "data is no YAML": ({"data.yaml": "a: ["}, "data.yaml: line 2: is not YAML"),
    "root data is no object": ({"data.json": "[1]"}, "data.json: expected an object at the root of data"),
    "value given twice": (
        {"data.json": '{"a": {"b": 1}}', "a/data.json": '{"b": 1}'},
        "data.json: data.a.b: is given already by b.tar.gz/",
    ),
    "json and yaml disagree": (
        {"x/data.json": '{"a": 1}', "x/data.yml": "a: 2"},
        "b.tar.gz/x/data.yml: data.x.a: is given already by b.tar.gz/x/data.json",
    ),
    "unknown version of Rego": ({".manifest": '{"rego_version": 7}'}, "another version of Rego"),
    "version of Rego is no whole number": ({".manifest": '{"rego_version": 1.0}'}, "another version of Rego"),
    "roots in capitals": ({".manifest": '{"Roots": ["other"]}'}, 'outside of the roots: "other"'),
    "wasm that is not there": (
        {".manifest": '{"wasm": [{"entrypoint": "a/b", "module": "/policy.wasm"}]}'},
        "has rules compiled to WebAssembly",
    ),
    "delta with a policy": ({"patch.json": '{"data": [{"op": "remove", "path": "/a"}]}'}, "is a delta"),
    "no package": ({"b.rego": "x := 1"}, "b.tar.gz/b.rego: begins with no package"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_opa_refuses_is_refused(tmp_path: Path, name: str) -> None:
    files, mistake = REFUSED[name]
    raw = tarball({"authz.rego": MODULE, **files})
    (tmp_path / "b.tar.gz").write_bytes(raw)
    assert opa("eval", "-b", tmp_path / "b.tar.gz", "data").returncode != 0
    [found] = mistakes(raw)
    assert mistake in found


ACCEPTED: dict[str, dict[str, str]] = {
    "roots with slashes": {".manifest": '{"roots": ["/envoy/", "x/"]}', "x/data.json": "[1]"},
    "data within a deeper root": {".manifest": '{"roots": ["envoy", "x/y"]}', "data.json": '{"x": {"y": 1}}'},
    "manifest of nothing": {".manifest": "null"},
    "revision of nothing": {".manifest": '{"revision": null, "roots": null}'},
    "root in capitals": {".manifest": '{"ROOTS": ["envoy"]}'},
    "merged objects": {"data.json": '{"a": {"b": 1}}', "a/data.yaml": "c: 2", "a/d/data.yml": "[1]"},
    "folder with dots": {"./.hidden/data.json": '{"a": 1}'},
    "leading slash": {"/x/data.json": '{"a": 1}'},
    "other files": {"README.md": "#", "x.json": "{", "x/y.yaml": "a: ["},
    "package with brackets": {
        "b.rego": '# a\npackage b["c d"].e\n\nx := 1',
        ".manifest": '{"roots": ["envoy", "b/c d"]}',
    },
    "data in YAML that is JSON": {"x/data.yaml": '{"a": 1}'},
    "test files": {"authz_test.rego": "package envoy.authz\n\ntest_allow if allow\n"},
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_opa_takes_is_taken_with_the_same_data(tmp_path: Path, name: str) -> None:
    raw = tarball({"authz.rego": MODULE, **ACCEPTED[name]})
    (tmp_path / "b.tar.gz").write_bytes(raw)
    shown = json.loads(opa("eval", "-b", tmp_path / "b.tar.gz", "-f", "values", "data").stdout)[0]
    found = read(raw).data
    assert {key: shown[key] for key in found} == found


# Several bundles, and files beside them


def write(tmp_path: Path, name: str, files: dict[str, str]) -> Path:
    (tmp_path / name).write_bytes(tarball(files))
    return tmp_path / name


AUTHZ = {"authz.rego": MODULE, ".manifest": '{"revision": "p1", "roots": ["envoy"]}'}
ROLES = {"roles/data.json": '{"a": 1}', ".manifest": '{"revision": "d1", "roots": ["roles"]}'}


def test_bundles_of_separate_roots_are_loaded_together(tmp_path: Path) -> None:
    loaded = sources.load([write(tmp_path, "p.tar.gz", AUTHZ), write(tmp_path, "d.tgz", ROLES)])
    assert (loaded.revision, loaded.data) == ("p1+d1", {"roles": {"a": 1}})


def test_bundles_with_overlapping_roots_are_refused_as_by_opa(tmp_path: Path) -> None:
    paths = [
        write(tmp_path, "p.tar.gz", AUTHZ),
        write(tmp_path, "d.tar.gz", {"a.rego": "package envoy.x\n", ".manifest": '{"roots": ["envoy/x"]}'}),
    ]
    assert opa("eval", "-b", paths[0], "-b", paths[1], "data").returncode != 0
    with pytest.raises(PolicyError) as caught:
        sources.load(paths)
    assert str(caught.value) == (
        f'{paths[1]}: root "envoy/x" overlaps root "envoy" of {paths[0]}; '
        "give each bundle roots of its own in its .manifest"
    )


def test_file_in_a_root_of_a_bundle_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "b.rego").write_text("package envoy.authz\n\nx := 1\n")
    bundle_file = write(tmp_path, "p.tar.gz", AUTHZ)
    with pytest.raises(PolicyError) as caught:
        sources.load([folder, bundle_file])
    assert str(caught.value) == f'{folder}/b.rego: package envoy.authz is in root "envoy" of {bundle_file}'
    (folder / "b.rego").write_text("package other\n\nx := 1\n")
    assert sources.load([folder, bundle_file]).revision.startswith("p1+")


# Untrusted bytes


def link(kind: bytes) -> tarfile.TarInfo:
    entry = tarfile.TarInfo("x.rego")
    entry.type, entry.linkname = kind, "/etc/passwd"
    return entry


@pytest.mark.parametrize(
    ("raw", "mistake"),
    [
        (b"", "b.tar.gz: is empty"),
        (b"PK\x03\x04", "b.tar.gz: is not gzip: "),
        (tarball({"a.rego": MODULE})[:-20], "b.tar.gz: is cut off"),
        (tarball({"a.rego": MODULE})[:-1], "b.tar.gz: is cut off"),
        (tarball({"../a.rego": MODULE}), "b.tar.gz/../a.rego: is a path that leads out"),
        (tarball({"/a/../../b.rego": MODULE}), "b.tar.gz/a/../../b.rego: is a path that leads out"),
        (tarball({"a\\b.rego": MODULE}), "is a path that leads out"),
        (tarball({"a.rego": MODULE, "/a.rego": MODULE}), "b.tar.gz/a.rego: is in the bundle twice"),
        (tarball({}, link(tarfile.SYMTYPE)), "b.tar.gz/x.rego: is no regular file"),
        (tarball({}, link(tarfile.LNKTYPE)), "b.tar.gz/x.rego: is no regular file"),
        (tarball({}, link(tarfile.CHRTYPE)), "b.tar.gz/x.rego: is no regular file"),
        (tarball({}, link(tarfile.FIFOTYPE)), "b.tar.gz/x.rego: is no regular file"),
        (tarball({"data.json": b"0" * (LIMIT + 1)}), f"unpacks to more than {LIMIT} bytes"),
        (tarball({"a.rego": b"\xff"}), "b.tar.gz/a.rego: cannot be read: not UTF-8 at byte 0"),
        (tarball({"data.json": "[" * 5000 + "]" * 5000}), "b.tar.gz/data.json: "),
        (tarball({"x/data.json": "[" * 200 + "]" * 200}), "nested more than 100 levels"),
        (tarball({str(index): "" for index in range(500)}), ""),
    ],
)
def test_bytes_that_are_no_bundle_are_refused(raw: bytes, mistake: str) -> None:
    if mistake:
        assert any(mistake in found for found in mistakes(raw))
    else:
        assert read(raw).modules == ()


@settings(max_examples=300)
@given(st.data())
def test_damaged_bundle_raises_nothing_but_our_errors(data: st.DataObject) -> None:
    whole = bytearray(gzip.decompress(tarball(signed({"a.rego": MODULE, "x/data.json": USERS}))))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, 512 * 8))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PolicyError):
        read(gzip.compress(bytes(whole)))


def test_tarball_larger_than_the_limit_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "b.tar.gz"
    file.write_bytes(tarball({"a.rego": MODULE, "x": os.urandom(5000)}))
    with pytest.raises(PolicyError, match=r"is larger than 4096 bytes \(policy\.bundle_size_limit\)"):
        sources.load([file], limit=4096)


def test_tarball_of_many_entries_is_refused() -> None:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for index in range(20_001):
            archive.addfile(tarfile.TarInfo(f"{index}"))
    with pytest.raises(PolicyError, match="holds more than 20000 entries"):
        bundle.read("b", target.getvalue(), 1 << 26, None)


@pytest.mark.parametrize("text", ["", "secret", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"])
def test_key_that_is_none_of_its_algorithm_is_named(text: str) -> None:
    with pytest.raises(PolicyError) as caught:
        verifier(text, "RS256")
    assert str(caught.value) == 'policy.keys, "default": is no PEM key for RS256'


def test_certificate_is_a_key(tmp_path: Path) -> None:
    made = self_signed(tmp_path)
    private = tmp_path / "private.pem"
    file = built(tmp_path, FILES, "--signing-key", private, "--signing-alg", "ES256")
    assert read(file.read_bytes(), verifier=verifier(made, "ES256", key_id="default")).revision == "v7"


def self_signed(folder: Path) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "private.pem").write_text(pem(key)[0])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bundles")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    ).sign(key, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
