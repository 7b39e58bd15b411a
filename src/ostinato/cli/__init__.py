"""The command line: parse, call the library, print. Nothing here computes."""
