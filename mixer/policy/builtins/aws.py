"""`providers.aws.sign_req`: a request for `http.send`, with the headers that sign it for AWS (Signature Version 4).

Source: OPA's `topdown/providers.go` and `internal/providers/aws/signing_v4.go`;
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html.
"""

import hashlib
import hmac
from datetime import UTC, datetime
from typing import Any

from mixer.policy.builtins import uri
from mixer.policy.builtins.gojson import dumps
from mixer.policy.builtins.operands import BuiltinError, UnsupportedError, integer, mapping

_CONFIG = ("aws_service", "aws_access_key", "aws_secret_access_key", "aws_region")
_REQUEST = frozenset(
    """
    body cache cache_ignored_headers caching_mode enable_redirect force_cache force_cache_duration_seconds
    force_json_decode force_yaml_decode headers max_retry_attempts method raise_error raw_body timeout tls_ca_cert
    tls_ca_cert_env_variable tls_ca_cert_file tls_client_cert tls_client_cert_env_variable tls_client_cert_file
    tls_client_key tls_client_key_env_variable tls_client_key_file tls_insecure_skip_verify tls_server_name
    tls_use_system_certs url
    """.split()  # noqa: SIM905
)
_UNSIGNED = frozenset(["authorization", "user-agent", "x-amzn-trace-id"])  # proxies may change these
_ALGORITHM = "AWS4-HMAC-SHA256"


def _sign_req(request: object, config: object, time_ns: object) -> dict[Any, Any]:
    given, options = mapping(request), mapping(config)
    if not all(isinstance(options.get(name), str) for name in _CONFIG):
        raise BuiltinError(f"operand 2 must have {', '.join(_CONFIG)} as strings")
    if not isinstance(unsigned := options.get("disable_payload_signing", False), bool):
        raise BuiltinError("disable_payload_signing must be a boolean")
    if given.keys() - _REQUEST or not all(isinstance(given.get(name), str) for name in ("method", "url")):
        raise BuiltinError("operand 1 must be a request of http.send with method and url as strings")
    headers = {_text(name): _text(value) for name, value in mapping(given.get("headers", {})).items()}
    url = uri.parse(given["url"])
    payload = "UNSIGNED-PAYLOAD" if unsigned else hashlib.sha256(_body(given)).hexdigest()
    nanoseconds = integer(time_ns)
    if not 0 <= nanoseconds < 2**63:
        raise UnsupportedError("providers.aws.sign_req with a time before 1970 or after 2262")
    at = datetime.fromtimestamp(nanoseconds // 10**9, UTC).strftime("%Y%m%dT%H%M%SZ")
    own = {"host": url.host, "x-amz-date": at}
    if options["aws_service"] in ("s3", "glacier"):
        own["x-amz-content-sha256"] = payload
    if token := _text(options.get("aws_session_token")):
        own["x-amz-security-token"] = token
    lower = {name.lower(): value for name, value in headers.items()}
    signed = own | {name: value for name, value in lower.items() if name not in _UNSIGNED}
    lines = [f"{name}:{signed[name]}" for name in sorted(signed)]
    names = ";".join(sorted(signed))
    canonical = "\n".join([given["method"], uri.escaped_path(url), url.query, *lines, "", names, payload])
    authorization = _authorization(options, at, names, canonical)
    return given | {"headers": headers | {"Authorization": authorization} | own}


def _authorization(options: dict[Any, Any], at: str, names: str, canonical: str) -> str:
    scope = f"{at[:8]}/{options['aws_region']}/{options['aws_service']}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{options['aws_secret_access_key']}".encode()
    for part in (
        at[:8],
        options["aws_region"],
        options["aws_service"],
        "aws4_request",
        f"{_ALGORITHM}\n{at}\n{scope}\n{digest}",
    ):
        key = hmac.digest(key, part.encode(), "sha256")
    credential = f"{options['aws_access_key']}/{scope}"
    return f"{_ALGORITHM} Credential={credential},SignedHeaders={names},Signature={key.hex()}"


def _body(request: dict[Any, Any]) -> bytes:
    if "raw_body" in request:
        return _text(request["raw_body"]).encode()
    return dumps(request["body"]).encode() if "body" in request else b""


def _text(value: object) -> str:
    """What is no string counts as an empty one."""
    return value if isinstance(value, str) else ""


BUILTINS = {"providers.aws.sign_req": _sign_req}
