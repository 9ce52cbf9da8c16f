"""Make calls of an implementation: ways of calling, sequences and two processes; in this process or in a worker."""
