"""The command line: ``main``, the commands one module each, and how they show what the library returns."""
