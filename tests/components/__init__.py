"""The real components that tests and benchmarks run against.

`binaries` says where each one is, `fetch` brings what is not on the machine, `processes` starts them.
`python -m tests.components` is the fetch command.
"""
