"""Where the shards of a served collection are searched: in this process, in processes of their own, in an MPI job."""
