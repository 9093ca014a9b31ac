"""The commands, a module each: what they are called with, and what they print. What they do is done elsewhere.

Modules here import little, so that `--help` is quick: what a command needs is imported when it runs.
"""
