# Run with `opa test policies/`.
package envoy.authz_test

import data.envoy.authz

# The tokens here are signed with the example keys that RFC 7515 (A.3) and RFC 7517 (A.2) print.
issuer_key := {
	"kty": "EC",
	"kid": "issuer",
	"crv": "P-256",
	"x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
	"y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
	"d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI",
}

stranger_key := {
	"kty": "EC",
	"kid": "issuer",
	"crv": "P-256",
	"x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
	"y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
	"d": "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE",
}

jwks := {"keys": [object.remove(issuer_key, ["d"])]}

roles := {
	"users": {"alice": "user", "root": "admin"},
	"permissions": {
		"user": [{"methods": ["GET"], "path": "/api"}, {"methods": ["POST"], "path": "/api/orders"}],
		"admin": [{"methods": ["GET", "DELETE"], "path": "/"}],
	},
}

network := {"allowed": [{"name": "office", "cidr": "192.0.2.0/24"}, {"name": "laptop", "cidr": "2001:db8::7/128"}]}

later := (time.now_ns() / 1000000000) + 3600

earlier := (time.now_ns() / 1000000000) - 3600

signed(claims, key) := io.jwt.encode_sign({"typ": "JWT", "alg": "ES256", "kid": "issuer"}, claims, key)

token(user) := signed({"iss": "mixer-demo", "sub": user, "exp": later}, issuer_key)

bearer(text) := {"authorization": concat(" ", ["Bearer", text])}

http(method, segments, headers) := {
	"attributes": {"request": {"http": {"method": method, "headers": headers}}},
	"parsed_path": segments,
}

tcp(address) := {"attributes": {"source": {"address": {"socketAddress": {
	"address": address,
	"portValue": 40000,
}}}}}

decision(request) := answer if {
	answer := authz.allow with input as request
		with data.jwks as jwks
		with data.roles as roles
		with data.network as network
}

reason(request) := decision(request).dynamic_metadata.reason

test_user_reads_under_the_prefix if {
	every segments in [["api"], ["api", "orders"], ["api", "orders", "7"]] {
		decision(http("GET", segments, bearer(token("alice")))) == {
			"allowed": true,
			"headers": {"x-user": "alice", "x-role": "user"},
			"request_headers_to_remove": ["authorization"],
			"dynamic_metadata": {"reason": "ok", "user": "alice", "role": "user"},
		}
	}
}

test_admin_goes_everywhere if {
	every segments in [[""], ["admin"], ["api", "orders"]] {
		reason(http("DELETE", segments, bearer(token("root")))) == "ok"
	}
}

test_prefix_covers_whole_segments_only if {
	reason(http("GET", ["apiary"], bearer(token("alice")))) == "role_lacks_path"
	reason(http("GET", [""], bearer(token("alice")))) == "role_lacks_path"
}

test_path_that_climbs_is_never_permitted if {
	reason(http("GET", ["api", "..", "admin"], bearer(token("alice")))) == "role_lacks_path"
	reason(http("GET", ["api", "..", "api"], bearer(token("root")))) == "role_lacks_path"
}

test_method_counts if {
	reason(http("POST", ["api", "orders"], bearer(token("alice")))) == "ok"
	reason(http("POST", ["api"], bearer(token("alice")))) == "role_lacks_path"
	reason(http("DELETE", ["api", "orders"], bearer(token("alice")))) == "role_lacks_path"
}

test_forbidden_path_answers_403_and_says_why if {
	answer := decision(http("GET", ["admin"], bearer(token("alice"))))
	answer.allowed == false
	answer.http_status == 403
	answer.headers == {"content-type": "application/json"}
	json.unmarshal(answer.body).error == "role_lacks_path"
	answer.dynamic_metadata == {"reason": "role_lacks_path", "user": "alice", "role": "user"}
}

test_user_without_a_role_answers_403 if {
	answer := decision(http("GET", ["api"], bearer(token("bob"))))
	answer.allowed == false
	answer.http_status == 403
	answer.dynamic_metadata == {"reason": "role_missing", "user": "bob"}
}

test_request_without_a_token_answers_401 if {
	headers := [{}, {"authorization": ""}, {"authorization": "Bearer"}, {"authorization": "Bearer "}, {"authorization": "Basic YTpi"}]
	every header in headers {
		answer := decision(http("GET", ["api"], header))
		answer.allowed == false
		answer.http_status == 401
		answer.headers["www-authenticate"] == "Bearer realm=\"mixer-demo\""
		answer.dynamic_metadata == {"reason": "token_missing"}
	}
}

test_bad_token_answers_401 if {
	tokens := [
		"garbage",
		"a.b.c",
		signed({"iss": "mixer-demo", "sub": "root", "exp": later}, stranger_key),
		signed({"iss": "somebody-else", "sub": "root", "exp": later}, issuer_key),
		signed({"iss": "mixer-demo", "sub": "root", "exp": earlier}, issuer_key),
		signed({"iss": "mixer-demo", "sub": "root", "nbf": later}, issuer_key),
		signed({"iss": "mixer-demo", "exp": later}, issuer_key),
	]
	every text in tokens {
		answer := decision(http("GET", ["api"], bearer(text)))
		answer.allowed == false
		answer.http_status == 401
		answer.headers["www-authenticate"] == "Bearer realm=\"mixer-demo\", error=\"invalid_token\""
		answer.dynamic_metadata == {"reason": "token_invalid"}
	}
}

# A public key used as an HMAC secret, and no signature at all: the algorithm is the policy's choice.
test_token_cannot_choose_its_algorithm if {
	hmac_key := {"kty": "oct", "k": base64url.encode_no_pad(json.marshal(jwks))}
	hmac := io.jwt.encode_sign({"typ": "JWT", "alg": "HS256"}, {"iss": "mixer-demo", "sub": "root"}, hmac_key)
	unsigned := concat(".", [
		base64url.encode_no_pad("{\"alg\":\"none\"}"),
		base64url.encode_no_pad("{\"iss\":\"mixer-demo\",\"sub\":\"root\"}"),
		"",
	])
	every text in [hmac, unsigned] {
		reason(http("GET", ["api"], bearer(text))) == "token_invalid"
	}
}

test_scheme_is_read_in_any_case if {
	reason(http("GET", ["api"], {"authorization": concat(" ", ["bEARER", token("alice")])})) == "ok"
}

test_missing_keys_are_named if {
	answer := authz.allow with input as http("GET", ["api"], bearer(token("alice")))
		with data.roles as roles
	answer.allowed == false
	answer.http_status == 500
	answer.dynamic_metadata == {"reason": "keys_missing"}
}

test_connection_from_a_known_network_is_allowed if {
	decision(tcp("192.0.2.9")) == {"allowed": true, "dynamic_metadata": {"reason": "ok", "network": "office"}}
	decision(tcp("2001:db8::7")).dynamic_metadata.network == "laptop"
}

test_connection_from_elsewhere_is_denied if {
	every address in ["192.0.3.9", "2001:db8::8"] {
		decision(tcp(address)) == {"allowed": false, "dynamic_metadata": {"reason": "source_unknown"}}
	}
}

test_connection_without_an_address_is_denied if {
	decision({"attributes": {}}).allowed == false
}

# The example data itself.
test_example_roles_fit_together if {
	every _, role in data.roles.users {
		count(data.roles.permissions[role]) > 0
	}
	every entry in data.network.allowed {
		net.cidr_is_valid(entry.cidr)
	}
}
