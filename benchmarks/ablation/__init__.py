"""Which part of training an encoder is good for what: one command from pairs to a report (paper, Table 4)."""
