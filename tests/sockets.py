"""Lists the TCP sockets on which a process and its descendants listen, from proc(5)."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from pathlib import Path

LISTENING = "0A"
PROC = Path("/proc")


def listening(pid: int) -> set[tuple[str, int]]:
    """Return address and port of each listening socket of a process and its descendants."""
    found: set[tuple[str, int]] = set()
    for process in _tree(pid):
        inodes = _socket_inodes(process)
        for table in ("tcp", "tcp6"):
            with contextlib.suppress(OSError):  # the process has ended
                for line in (PROC / str(process) / "net" / table).read_text().splitlines()[1:]:
                    fields = line.split()
                    if fields[3] == LISTENING and fields[9] in inodes:
                        address, _, port = fields[1].partition(":")
                        found.add((_address(address), int(port, 16)))
    return found


def is_loopback(address: str) -> bool:
    """Return whether an address is one of loopback; `ipaddress` denies that of IPv4-mapped ones."""
    found = ipaddress.ip_address(address)
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def _address(digits: str) -> str:
    """Return an address that the kernel prints as 32-bit words in the order of the processor."""
    data = bytes.fromhex(digits)
    words = b"".join(data[start : start + 4][::-1] for start in range(0, len(data), 4))
    return socket.inet_ntop(socket.AF_INET if len(words) == 4 else socket.AF_INET6, words)


def _tree(pid: int) -> set[int]:
    parents: dict[int, int] = {}
    for path in PROC.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    tree = {pid}
    while added := {child for child, parent in parents.items() if parent in tree} - tree:
        tree |= added
    return tree


def _socket_inodes(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for descriptor in (PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found
