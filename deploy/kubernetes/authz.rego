# The least that a policy of Mixer says; README.md of policies/ has more.
package envoy.authz

default allow := {"allowed": false, "http_status": 403, "dynamic_metadata": {"reason": "path_unknown"}}

allow := {"allowed": true, "dynamic_metadata": {"reason": "ok"}} if {
	input.attributes.request.http.method == "GET"
	startswith(input.attributes.request.http.path, "/public/")
}
