"""Parts of an extraction that are computed on the nodes of a cluster, and written by the process that plans them."""
