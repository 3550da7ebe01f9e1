"""One untrusted object, read and decoded in a child process with limits."""
