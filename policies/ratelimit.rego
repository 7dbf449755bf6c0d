# The example limits from Rego: `rate_limits.decision: mixer/ratelimit/limits`.
#
# On Check the rule sees the whole input, and an allowed request is counted in the call that allows it. On Quota it
# sees {"domain", "descriptors": [[{"key", "value"}]], "hits_addend"} of Envoy's rate limit filter. It yields a set of
# limits; README.md beside this file tells their fields. An object with a mistake fails the call: none is left out.
#
# Data: data.plans (plans/data.json), what a role may use.
package mixer.ratelimit

import data.envoy.authz

# Check: so many requests a minute for each user, as its role's plan says.
limits contains {
	"name": "plan", # as records, metadata and metrics show it
	"key": ["plan", authz.user], # what has a counter of its own; with the window it is all that names it
	"requests_per_unit": plan.requests_per_minute,
	"unit": "minute",
	"over_limit": {"body": {
		"error": "plan_exhausted",
		"message": sprintf("Your plan has %v requests a minute.", [plan.requests_per_minute]),
	}},
}

# Check: and so many at once. The slot comes back when the access log tells that the request is over, or after `lease`.
limits contains {
	"name": "at-once",
	"key": ["at-once", authz.user],
	"algorithm": "concurrency",
	"requests_per_unit": plan.at_once,
	"lease": "5m",
}

# Check: pages that cost much are counted by the file's limit for them (limits/demo.yaml).
limits contains {
	"domain": "mixer-demo",
	"descriptors": [[{"key": "path", "value": authz.path}]],
} if {
	startswith(authz.path, "/reports")
}

# A limit of which a part is undefined is no limit, and nobody is told: so there is a plan for everybody.
plan := object.get(data.plans, authz.role, data.plans["default"])

# Quota: each tenant that Envoy's descriptors name has its number of requests a second, and may save them up.
limits contains {
	"name": "tenant",
	"key": ["tenant", entry.value],
	"algorithm": "token_bucket",
	"requests_per_unit": data.plans["default"].tenant_requests_per_second,
	"unit": "second",
	"burst": data.plans["default"].tenant_burst,
} if {
	some descriptor in input.descriptors
	some entry in descriptor
	entry.key == "tenant"
}
