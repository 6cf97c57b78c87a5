"""The worker: the trusted program that runs one attempt on one node, from claim to result."""
