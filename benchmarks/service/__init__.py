"""The query service under load, under failures, and under requests that make no sense."""
