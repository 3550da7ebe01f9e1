"""A process and its descendants, and the TCP sockets on which they listen."""

from __future__ import annotations

import contextlib
import ipaddress

import psutil


def tree(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants; none if it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def find(pid: int, name: str) -> psutil.Process:
    """Return the one process whose name begins so among a process and its descendants."""
    found = []
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended
            if process.name().startswith(name):
                found.append(process)
    (only,) = found
    return only


def listening(pid: int) -> set[tuple[str, int]]:
    """Return address and port of each listening socket of a process and its descendants."""
    found: set[tuple[str, int]] = set()
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            for socket in process.net_connections(kind="tcp"):
                if socket.status == psutil.CONN_LISTEN:
                    found.add((socket.laddr.ip, socket.laddr.port))
    return found


def is_loopback(address: str) -> bool:
    """Return whether an address is one of loopback; `ipaddress` denies that of IPv4-mapped ones."""
    found = ipaddress.ip_address(address)
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback
