"""The documentation is a program: what it shows is run, what it names is there."""
