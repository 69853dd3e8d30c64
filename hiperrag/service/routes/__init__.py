"""The service's endpoints, one module a group; each has a `router`."""
