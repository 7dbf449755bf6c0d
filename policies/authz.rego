# The example policy: who may do what over HTTP, and who may connect over TCP.
#
# Envoy's ext_authz filters ask for `envoy/authz/allow`. The answer is an object of the shape that OPA's
# Envoy plugin reads, so this file runs under Mixer's embedded engine, under an OPA server, and under the
# plugin. `reason` is a short constant in each answer: Envoy hands it to the access log, where Mixer joins
# it with the request.
#
# Data: data.roles (roles/data.json), data.network (network/data.json), and data.jwks, the public keys
# that tokens are verified with ({"keys": […]}, RFC 7517), which belongs to your deployment and not here.
package envoy.authz

issuer := "mixer-demo"

allow := allowed_request if permitted

allow := denied_request if {
	is_http
	not permitted
}

allow := connection if not is_http

# Each input field is read by its full path, never as a whole object: the decision cache keys its entries by
# the fields that a decision can read, and a whole object would bring in the request id, new each time.
is_http if input.attributes.request.http.method

# HTTP: the decision

# RFC 6750: "Bearer", in any case, one space, and the token.
bearer_token := parts[1] if {
	parts := split(input.attributes.request.http.headers.authorization, " ")
	count(parts) == 2
	lower(parts[0]) == "bearer"
	parts[1] != ""
}

# The token's subject, once signature, algorithm, issuer and times (exp, nbf) hold.
user := subject if {
	[valid, _, claims] := io.jwt.decode_verify(bearer_token, {
		"cert": json.marshal(data.jwks),
		"alg": "ES256",
		"iss": issuer,
	})
	valid
	subject := claims.sub
}

role := data.roles.users[user]

permitted if {
	some permission in data.roles.permissions[role]
	input.attributes.request.http.method in permission.methods
	covers(permission.path)
}

# A prefix covers whole path segments: "/api" covers "/api" and "/api/orders", not "/apiary".
covers(prefix) if path == prefix

covers(prefix) if startswith(path, concat("", [trim_suffix(prefix, "/"), "/"]))

# Decoded and without the query. A path that climbs has none here, so no permission covers it, even if
# Envoy's normalize_path is off.
path := concat("/", array.concat([""], input.parsed_path)) if {
	not ".." in input.parsed_path
}

# HTTP: the answers

allowed_request := {
	"allowed": true,
	# To the upstream, in place of whatever the client sent under these names. Rate limits count by x-user.
	"headers": {"x-user": user, "x-role": role},
	"request_headers_to_remove": ["authorization"], # the upstream needs the user, not the token
	"dynamic_metadata": {"reason": "ok", "user": user, "role": role},
}

denied_request := {
	"allowed": false,
	"http_status": denials[reason].status,
	"headers": object.union({"content-type": "application/json"}, denials[reason].headers),
	"body": json.marshal({"error": reason, "message": denials[reason].message}),
	"dynamic_metadata": object.union({"reason": reason}, known),
}

denials := {
	"keys_missing": {
		"status": 500,
		"headers": {},
		"message": "The policy has no keys to verify tokens with: data.jwks is missing.",
	},
	"token_missing": {
		"status": 401,
		"headers": {"www-authenticate": "Bearer realm=\"mixer-demo\""},
		"message": "Send a token: Authorization: Bearer <token>.",
	},
	"token_invalid": {
		"status": 401,
		"headers": {"www-authenticate": "Bearer realm=\"mixer-demo\", error=\"invalid_token\""},
		"message": "The token's signature, issuer or time is not valid.",
	},
	"role_missing": {
		"status": 403,
		"headers": {},
		"message": "The user of this token has no role.",
	},
	"role_lacks_path": {
		"status": 403,
		"headers": {},
		"message": "The user's role does not allow this method on this path.",
	},
}

# What is known of the caller of a denied request: {}, {user}, or {user, role}.
default known := {}

known := {"user": user, "role": role}

known := {"user": user} if not role

# Why a request is denied: the first that holds.
reason := "keys_missing" if {
	not data.jwks.keys
} else := "token_missing" if {
	not bearer_token
} else := "token_invalid" if {
	not user
} else := "role_missing" if {
	not role
} else := "role_lacks_path"

# TCP: no request, only the connection's addresses. Allowed from the networks in the data.

connection := {
	"allowed": true,
	"dynamic_metadata": {"reason": "ok", "network": network},
}

connection := {
	"allowed": false,
	"dynamic_metadata": {"reason": "source_unknown"},
} if {
	not network
}

# The name of the network that the client's address lies in; the first in the data's order.
network := names[0] if {
	names := [entry.name |
		some entry in data.network.allowed
		net.cidr_contains(entry.cidr, input.attributes.source.address.socketAddress.address)
	]
	count(names) > 0
}
