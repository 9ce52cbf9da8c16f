"""The suite as one assertion in the tests and notebooks of other projects."""
