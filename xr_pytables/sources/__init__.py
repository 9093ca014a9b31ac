"""Where the bytes of a file come from: `Source` says what every source can do, the other modules are sources.

They know nothing of what the bytes mean.
"""
