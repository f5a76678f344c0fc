"""The lab: two network namespaces, a wire that misbehaves by rule, real clients and servers, and the truth about each run."""
