"""What a child that is controlled by an object can reach: its bytes, to read, and nothing else."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import faulty_decoders as faults
from tests.conftest import write
from transforms.core.shared_bytes import SharedBytes
from transforms.sandbox import fork_server, landlock, seccomp
from transforms.sandbox.child_process import ChildRaised, SandboxProcess
from transforms.sandbox.fork_server import ForkServer

REFUSED = "PermissionError"


@pytest.fixture(scope="module")
def child() -> Iterator[SandboxProcess]:
    child = SandboxProcess(timeout_s=60, memory_bytes=256 << 20, server=faults.SERVER)
    yield child
    child.close()


needs_landlock = pytest.mark.skipif(not landlock.version(), reason="the kernel has no Landlock")
needs_seccomp = pytest.mark.skipif(not seccomp.is_supported(), reason="no seccomp filters here")


def refused(child: SandboxProcess, function: Any, *arguments: Any) -> bool:
    with pytest.raises(ChildRaised) as raised:
        child.call(function, *arguments)
    return str(raised.value) == REFUSED


@needs_landlock
def test_no_file_can_be_read(child: SandboxProcess, tmp_path: Path) -> None:
    secret = tmp_path / "patient.key"
    secret.write_bytes(b"secret")
    root = Path(__file__).parents[2]
    for path in (
        secret,
        root / "setup.py",
        "/etc/passwd",
        f"/proc/{os.getpid()}/environ",
        "/proc/self/maps",
    ):
        assert refused(child, faults.read_file, str(path))
    for folder in (tmp_path, "/", Path.home(), root):
        assert refused(child, os.listdir, str(folder))


@needs_seccomp
def test_no_file_can_be_written(child: SandboxProcess, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    site_packages = Path(pytest.__file__).parents[1]
    for path in (file, tmp_path / "new", "/dev/shm/new", site_packages / "planted.py"):
        assert refused(child, open, str(path), "wb")
    assert refused(child, os.unlink, str(file))
    assert refused(child, os.rename, str(file), str(tmp_path / "other"))
    assert refused(child, os.chmod, str(file), 0o777)
    assert refused(child, os.mkdir, str(tmp_path / "folder"))
    assert refused(child, os.symlink, str(file), str(tmp_path / "link"))
    assert refused(child, os.memfd_create, "memory")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@needs_seccomp
@pytest.mark.parametrize("in_memory", [True, False])
def test_the_object_can_only_be_read(
    child: SandboxProcess, tmp_path: Path, in_memory: bool
) -> None:
    with SharedBytes(None if in_memory else str(tmp_path)) as data:
        data.file.write(b"content")
        with data.read_only() as descriptor:
            assert child.call(os.read, 7, descriptor=descriptor) == b"content"
            assert child.call(faults.try_to_change, descriptor=descriptor) == ()
        assert data.rewind().read() == b"content"


def test_a_file_that_is_open_to_read_is_passed_as_it_is(
    child: SandboxProcess, tmp_path: Path
) -> None:
    path = tmp_path / "source"
    path.write_bytes(b"content")
    with (
        path.open("rb") as file,
        SharedBytes.from_file(file) as data,
        data.read_only() as descriptor,
    ):
        assert descriptor == file.fileno()
        if seccomp.is_supported():
            assert child.call(faults.try_to_change, descriptor=descriptor) == ()
    assert path.stat().st_mode & 0o777 != 0o777


@needs_seccomp
def test_no_network(child: SandboxProcess, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            address = list(server.getsockname())
            assert refused(child, faults.connect, int(socket.AF_INET), int(kind), address)
    with socket.socket(socket.AF_UNIX) as local:
        local.bind(str(tmp_path / "socket"))
        local.listen()
        unix = (int(socket.AF_UNIX), int(socket.SOCK_STREAM), str(tmp_path / "socket"))
        assert refused(child, faults.connect, *unix)
    assert refused(child, socket.socketpair)


@needs_seccomp
def test_no_other_process(child: SandboxProcess) -> None:
    assert refused(child, os.fork)
    assert refused(child, os.execv, "/bin/true", ["true"])
    assert child.call(os.system, "true") != 0
    for number in (0, signal.SIGTERM, signal.SIGKILL):
        assert refused(child, os.kill, os.getpid(), int(number))
        assert refused(child, os.kill, child.call(os.getpid), int(number))  # nor itself
    assert refused(child, os.pidfd_open, os.getpid())


def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "GOOGLE_APPLICATION_CREDENTIALS", "HOME", "ANYTHING"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    server = ForkServer([faults.__name__])
    child = SandboxProcess(timeout_s=60, memory_bytes=256 << 20, server=server)
    environment = child.call(faults.environment)
    assert environment["LC_ALL"] == "C.UTF-8"
    assert set(environment) <= set(fork_server.ENVIRONMENT)
    inherited = Path(f"/proc/{child.call(os.getppid)}/environ")
    if not os.geteuid():  # for others, it belongs to root
        assert b"secret" not in inherited.read_bytes()
    else:
        assert inherited.stat().st_uid == 0
    child.close()
    server.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees descriptors of such processes")
def test_a_child_has_no_descriptors_of_others(child: SandboxProcess) -> None:
    other = SandboxProcess(timeout_s=60, memory_bytes=256 << 20, server=faults.SERVER)
    for one in (child, other):
        pid = one.call(os.getpid)
        opened = {path.readlink() for path in Path(f"/proc/{pid}/fd").iterdir()}
        assert len(opened) == 2, "the connection and /dev/null"
    other.close()


def test_decoders_can_do_what_they_need(child: SandboxProcess) -> None:
    assert child.call(faults.run_threads, 8) == 8
    for module in ("encodings.iso2022_jp", "xml.dom.minidom", "pydicom.pixels.encoders.native"):
        with pytest.raises(ChildRaised, match="TypeError"):  # imported; a module has no encoding
            child.call(importlib.import_module, module)


def test_packages_are_readable_wherever_they_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pip install --target FOLDER` puts libraries and plug-ins of a package beside it."""
    target, checkout = tmp_path / "target", tmp_path / "checkout"
    for folder, name in ((target, "installed_package"), (checkout, "own_package")):
        write(folder, f"{name}/__init__.py", b"")
        write(folder, "beside/__init__.py", b"")
        monkeypatch.syspath_prepend(str(folder))
        importlib.import_module(name)
    (target / "installed_package-1.dist-info").mkdir()
    paths = set(landlock.code_paths())
    assert str(target) in paths
    assert str(checkout / "own_package") in paths
    assert str(checkout) not in paths


def test_no_core_dump(child: SandboxProcess) -> None:
    """A handler of core dumps would store the object elsewhere, whatever the limit is."""
    pid = child.call(os.getpid)
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if "core file" in line).split()[4] == "0"
    if os.geteuid():  # files of processes that cannot be dumped belong to root
        assert Path(f"/proc/{pid}/environ").stat().st_uid == 0


def test_missing_restrictions_are_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fork_server, "_warned", set())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            fork_server._warn_of_missing(0)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "Landlock" in caplog.text and "seccomp" in caplog.text


OLD_KERNEL = """
import ctypes, errno, logging, os
from transforms.sandbox import landlock, seccomp
from transforms.sandbox.child_process import SandboxProcess

logging.basicConfig(format="%(message)s")
missing = (landlock.CREATE_RULESET, seccomp.MACHINES[os.uname().machine].seccomp)
program = [seccomp._instruction(seccomp.LOAD, seccomp.NUMBER)]
for number in missing:
    program += seccomp._rule(number, [seccomp._fail(errno.ENOSYS)])
program.append(seccomp._instruction(seccomp.RETURN, seccomp.RET_ALLOW))
code = ctypes.create_string_buffer(b"".join(program))
filter = seccomp._Program(len(program), ctypes.addressof(code))
libc = ctypes.CDLL(None)
libc.prctl(seccomp.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
assert libc.prctl(22, 2, ctypes.byref(filter)) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER

children = [SandboxProcess(timeout_s=60, memory_bytes=1 << 28) for _ in range(2)]
print([child.call(max, 1, 2) for child in children], children[0].call(os.access, "/", os.R_OK))
"""


@needs_seccomp
def test_on_a_kernel_without_restrictions_decoders_run_and_two_warnings_say_so() -> None:
    command = [sys.executable, "-c", OLD_KERNEL]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[2, 2] True\n"
    assert len(done.stderr.splitlines()) == 2
    assert "Landlock" in done.stderr and "seccomp" in done.stderr
