x := $"a{input.s}" if { regex.match(`^a+$`, input.s); [p, v] = walk(input); p[0] == "a" }
