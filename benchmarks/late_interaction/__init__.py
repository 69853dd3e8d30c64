"""Late-interaction engines on the same token vectors: recall against exact MaxSim, time, bytes, build cost, growth."""
