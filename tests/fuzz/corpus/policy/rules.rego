import rego.v1
default x := false
x := {"allowed": y} if { some i, v in input.a; y := [z | z := v.b; count(z) > 0]; not f(v) } else := sprintf("%d %v", [1, input])
f(q) := concat(",", [q, "a"]) if every k in [1, 2] { k > 0 }
d contains r if { r := input.a[_] with input.b as 1 }
