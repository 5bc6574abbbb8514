"""Reading files of Python objects, compressed or not, without executing them."""
