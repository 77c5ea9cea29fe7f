"""The verbs of the `bnn` command: one module each, with `main(argv) -> exit code`."""
