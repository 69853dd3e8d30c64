"""What the scheduling of work costs and brings: overhead, memory, busy workers, reruns."""
