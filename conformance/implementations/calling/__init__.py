"""Ways of calling an implementation, sequences of calls and calls in two processes; in this process or in a worker."""
