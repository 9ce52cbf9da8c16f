"""Guards around every call of an implementation: side effects, torch's global state, exceptions."""
