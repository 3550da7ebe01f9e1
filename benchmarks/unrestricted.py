"""Disable the restrictions of a fork server that imports this module, to measure what they cost."""

from __future__ import annotations

from transforms.sandbox import landlock, seccomp

landlock.version = lambda: 0
seccomp.is_supported = lambda: False
