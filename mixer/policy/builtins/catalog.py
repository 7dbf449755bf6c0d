"""What the embedded engine does with each of OPA 1.22's builtins: runs regorus' own, supplies ours, or refuses."""

# Operands of each builtin that OPA has (`opa capabilities`). Those of operators have names too.
_BY_ARITY = {
    0: "opa.runtime rego.metadata.chain rego.metadata.rule time.now_ns",
    1: """
        abs all any array.flatten array.reverse base64.decode base64.encode base64.is_valid base64url.decode
        base64url.encode base64url.encode_no_pad bits.negate cast_array cast_boolean cast_null cast_object
        cast_set cast_string ceil count crypto.md5 crypto.parse_private_keys crypto.sha1 crypto.sha256
        crypto.x509.parse_and_verify_certificates crypto.x509.parse_certificate_request
        crypto.x509.parse_certificates crypto.x509.parse_rsa_private_key floor glob.quote_meta
        graphql.parse_query graphql.parse_schema graphql.schema_is_valid hex.decode hex.encode http.send
        intersection io.jwt.decode is_array is_boolean is_null is_number is_object is_set is_string
        json.is_valid json.marshal json.unmarshal json.verify_schema lower max min net.cidr_expand
        net.cidr_is_valid net.cidr_merge net.lookup_ip_addr object.keys object.union_n product
        regex.is_valid round semver.is_valid sort strings.reverse sum time.clock time.date time.format
        time.parse_duration_ns time.parse_rfc3339_ns time.weekday to_number trace trim_space type_name union
        units.parse units.parse_bytes upper uri.is_valid uri.parse urlquery.decode urlquery.decode_object
        urlquery.encode urlquery.encode_object uuid.parse uuid.rfc4122 walk yaml.is_valid yaml.marshal
        yaml.unmarshal
    """,
    2: """
        and assign div eq equal gt gte lt lte minus mul neq or plus rem
        array.concat bits.and bits.lsh bits.or bits.rsh bits.xor concat contains crypto.hmac.equal
        crypto.hmac.md5 crypto.hmac.sha1 crypto.hmac.sha256 crypto.hmac.sha512
        crypto.x509.parse_and_verify_certificates_with_options crypto.x509.parse_keypair endswith format_int
        graph.reachable graph.reachable_paths graphql.is_valid graphql.parse graphql.parse_and_verify indexof
        indexof_n io.jwt.decode_verify io.jwt.verify_eddsa io.jwt.verify_es256 io.jwt.verify_es384
        io.jwt.verify_es512 io.jwt.verify_hs256 io.jwt.verify_hs384 io.jwt.verify_hs512 io.jwt.verify_ps256
        io.jwt.verify_ps384 io.jwt.verify_ps512 io.jwt.verify_rs256 io.jwt.verify_rs384 io.jwt.verify_rs512
        json.filter json.marshal_with_options json.match_schema json.patch json.remove net.cidr_contains
        net.cidr_contains_matches net.cidr_intersects net.cidr_overlap numbers.range object.filter
        object.remove object.subset object.union rand.intn re_match regex.globs_match regex.match regex.split
        rego.parse_module semver.compare set_diff split sprintf startswith strings.any_prefix_match
        strings.any_suffix_match strings.count strings.render_template strings.replace_n time.diff
        time.parse_ns trim trim_left trim_prefix trim_right trim_suffix
    """,
    3: """
        array.slice glob.match io.jwt.encode_sign io.jwt.encode_sign_raw numbers.range_step object.get
        providers.aws.sign_req regex.find_all_string_submatch_n regex.find_n regex.replace replace
        strings.split_n substring
    """,
    4: "regex.template_match time.add_date",
}
ARITY = {name: arity for arity, names in _BY_ARITY.items() for name in names.split()}
# Of ours, which rewritten modules call.
ARITY |= {
    "mixer.exceeded": 1,
    "mixer.fail": 1,
    "mixer.few_addresses": 1,
    "mixer.glob": 2,
    "mixer.http_send": 1,
    "mixer.json_unmarshal": 1,
    "mixer.marshalled": 1,
    "mixer.private_keys": 1,
    "mixer.product": 1,
    "mixer.sum": 1,
    "mixer.template": 1,
    "mixer.unordered": 1,
    "mixer.x509_certificates": 1,
    "mixer.x509_request": 1,
    "mixer.x509_verified": 1,
}
ARITY |= {
    "mixer.divided": 2,
    "mixer.few_paths": 2,
    "mixer.minus": 2,
    "mixer.plus": 2,
    "mixer.template_pattern": 3,
    "mixer.times": 2,
    "mixer.x509_keypair": 2,
    "mixer.x509_verified_with": 2,
}

# Builtins that we supply, by the module that has them; regorus lacks them, or answers otherwise than OPA.
_BY_MODULE = {
    "bounds": "mixer.exceeded mixer.few_addresses mixer.few_paths",
    "aws": "providers.aws.sign_req",
    "certificate_requests": "mixer.x509_request",
    "certificates": "mixer.x509_certificates",
    "chains": "mixer.x509_verified mixer.x509_verified_with",
    "digests": """
        crypto.hmac.equal crypto.hmac.md5 crypto.hmac.sha1 crypto.hmac.sha256 crypto.hmac.sha512 crypto.md5
        crypto.sha1 crypto.sha256
    """,
    "encodings": "base64.decode base64.is_valid base64url.decode hex.decode json.is_valid mixer.json_unmarshal",
    "formats": "sprintf",
    "globs": "regex.globs_match",
    "go_templates": "strings.render_template",
    "gojson": "json.marshal_with_options mixer.marshalled",
    "net": "net.cidr_contains net.cidr_contains_matches net.cidr_intersects net.cidr_merge",
    "json_schema": "json.match_schema json.verify_schema",
    "letters": "lower upper",
    "numbers": """
        mixer.divided mixer.minus mixer.plus mixer.product mixer.sum mixer.times to_number
    """,
    "operands": "mixer.fail mixer.unordered",
    "private_keys": "crypto.x509.parse_rsa_private_key mixer.private_keys mixer.x509_keypair",
    "queries": "urlquery.decode urlquery.decode_object",
    "regexes": "glob.quote_meta mixer.glob mixer.template_pattern",
    "signing": "io.jwt.encode_sign io.jwt.encode_sign_raw",
    "strings": "strings.count strings.replace_n strings.split_n",
    "templates": "mixer.template",
    "times": """
        time.add_date time.clock time.date time.diff time.format time.parse_duration_ns time.parse_ns
        time.parse_rfc3339_ns time.weekday
    """,
    "units": "units.parse units.parse_bytes",
    "uri": "uri.is_valid uri.parse",
    "uuids": "uuid.parse",
    "versions": "semver.compare semver.is_valid",
    "yaml_texts": "yaml.is_valid",
}
MODULES = {name: module for module, names in _BY_MODULE.items() for name in names.split()}

_STOPS_THE_LOOP = "would keep every other request waiting"
_DEPRECATED = "OPA 1 refuses it too"
# Why the embedded engine does not have a builtin of OPA; those of the network, where evaluations cannot wait.
REFUSED = {
    "http.send": _STOPS_THE_LOOP,
    "net.lookup_ip_addr": _STOPS_THE_LOOP,
    "opa.runtime": "tells of an OPA server",
    "rego.parse_module": "it gives OPA's own syntax tree",
    "yaml.marshal": "it lays text out otherwise",
    **dict.fromkeys(
        """
        all any cast_array cast_boolean cast_null cast_object cast_set cast_string net.cidr_overlap re_match
        set_diff
        """.split(),  # noqa: SIM905
        _DEPRECATED,
    ),
}

# Builtins of regorus 0.13 that decide as OPA's do.
NATIVE = frozenset(
    """
    abs array.concat array.reverse array.slice base64.decode base64.encode base64.is_valid
    base64url.decode base64url.encode base64url.encode_no_pad bits.and bits.lsh bits.negate bits.or
    bits.rsh bits.xor ceil concat contains count endswith floor format_int glob.match glob.quote_meta
    graph.reachable graph.reachable_paths hex.decode hex.encode indexof indexof_n intersection is_array
    is_boolean is_null is_number is_object is_set is_string json.filter json.is_valid json.marshal
    json.marshal_with_options json.patch json.remove json.unmarshal lower max min
    net.cidr_expand net.cidr_is_valid numbers.range numbers.range_step object.filter object.get
    object.keys object.remove object.subset object.union object.union_n print product rand.intn
    regex.find_all_string_submatch_n regex.find_n regex.is_valid regex.match regex.replace regex.split
    regex.template_match replace round semver.compare semver.is_valid sort split startswith
    strings.any_prefix_match strings.any_suffix_match strings.reverse substring sum time.add_date
    time.clock time.date time.diff time.format time.now_ns time.parse_duration_ns time.parse_ns
    time.parse_rfc3339_ns time.weekday trace trim trim_left trim_prefix trim_right trim_space
    trim_suffix type_name union units.parse units.parse_bytes upper
    urlquery.encode urlquery.encode_object uuid.rfc4122 walk yaml.unmarshal
    """.split()  # noqa: SIM905
)

# An equal input may get another answer. `io.jwt.decode_verify` reads the clock too, and says until when it holds.
NONDETERMINISTIC = frozenset(
    """
    crypto.x509.parse_and_verify_certificates crypto.x509.parse_and_verify_certificates_with_options
    http.send io.jwt.encode_sign io.jwt.encode_sign_raw net.lookup_ip_addr rand.intn time.now_ns uuid.rfc4122
    """.split()  # noqa: SIM905
)
NETWORK = frozenset(["http.send", "net.lookup_ip_addr"])  # by `policy.network`
# Builtins that may give a number which no double is; see `builtins.numbers`.
HOLDING = frozenset(
    """
    mixer.divided mixer.json_unmarshal mixer.minus mixer.plus mixer.private_keys mixer.product mixer.sum mixer.times
    mixer.x509_certificates mixer.x509_keypair mixer.x509_request mixer.x509_verified mixer.x509_verified_with
    to_number
    """.split()  # noqa: SIM905
)
