"""`mixer demo`, run as a person runs it."""
