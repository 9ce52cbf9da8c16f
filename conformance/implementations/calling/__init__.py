"""Make calls of an implementation in this process or in a worker: ways of calling, sequences, two processes."""
