package mixer.ratelimit_test

import data.mixer.ratelimit

plans := {
	"default": {"requests_per_minute": 6, "at_once": 2, "tenant_requests_per_second": 5, "tenant_burst": 9},
	"admin": {"requests_per_minute": 60, "at_once": 20},
}

by_name(limits) := {limit.name: limit | some limit in limits; limit.name}

test_user_has_the_limits_of_its_plan if {
	limits := by_name(ratelimit.limits) with data.plans as plans
		with data.envoy.authz.user as "root"
		with data.envoy.authz.role as "admin"
		with data.envoy.authz.path as "/api"
	limits.plan.key == ["plan", "root"]
	limits.plan.requests_per_unit == 60
	limits["at-once"].requests_per_unit == 20
	count(limits) == 2
}

test_role_without_a_plan_has_the_default if {
	limits := by_name(ratelimit.limits) with data.plans as plans
		with data.envoy.authz.user as "alice"
		with data.envoy.authz.role as "user"
	limits.plan.requests_per_unit == 6
}

test_reports_count_against_the_limit_of_the_file if {
	some limit in ratelimit.limits with data.plans as plans
		with data.envoy.authz.user as "alice"
		with data.envoy.authz.role as "user"
		with data.envoy.authz.path as "/reports/day"
	limit.descriptors == [[{"key": "path", "value": "/reports/day"}]]
}

test_tenant_of_a_descriptor_has_a_bucket if {
	limits := ratelimit.limits with data.plans as plans
		with input as {"domain": "d", "descriptors": [[{"key": "tenant", "value": "blue"}], [{"key": "a", "value": "b"}]]}
	[limit] := [limit | some limit in limits]
	limit.key == ["tenant", "blue"]
	limit.burst == 9
}

test_other_descriptors_have_none if {
	ratelimit.limits == set() with input as {"domain": "d", "descriptors": [[{"key": "a", "value": "b"}]]}
}
