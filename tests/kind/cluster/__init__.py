"""A real Kubernetes cluster of three nodes on this machine, for the tests: `python -m cluster up`."""
