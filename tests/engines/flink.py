"""A Flink cluster on this machine: JobManager, TaskManager, job server and worker pool.

Each is a separate process that a test can kill. `make flink` downloads what they need.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.engines.servers import POOL_ENVIRONMENT, free_port, pool_command, wait_for

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "flink"
READY = BUILD / "ready"
HOME = BUILD / "pyflink" / "pyflink"
LIBS = BUILD / "libs"
SERVER = ROOT / "tests" / "servers" / "flink"
STANDALONE = ROOT / "templates" / "flink" / "standalone"
CLASSES = {
    "jm": "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint",
    "tm": "org.apache.flink.runtime.taskexecutor.TaskManagerRunner",
}
JARS_OF_FLINK = ("flink-", "slf4j-", "log4j-", "listenablefuture")
"""Prefixes of jars that the Flink distribution includes in other versions."""
OPENED_PACKAGES = (
    "java.lang java.net java.io java.nio sun.nio.ch java.lang.reflect java.text java.time java.util "
    "java.util.concurrent java.util.concurrent.atomic java.util.concurrent.locks"
).split()
EXPORTED_PACKAGES = (
    "java.base/sun.net.util java.rmi/sun.rmi.registry jdk.compiler/com.sun.tools.javac.api "
    "java.security.jgss/sun.security.krb5"
).split()
OPENS = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED_PACKAGES]
"""Flink 1.16 supports Java 8 and 11; these options let it run on 17."""
JVM = [*OPENS, *(f"--add-exports={module}=ALL-UNNAMED" for module in EXPORTED_PACKAGES)]


class Cluster:
    """A running cluster.

    Attributes:
        jobs: HOST:PORT of the job server.
        workers: HOST:PORT of the worker pool.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rest, rpc, blobs = free_port(), free_port(), free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._configuration = _configuration(folder, self._rest, rpc, blobs)
        (folder / "flink-conf.yaml").write_text(
            "".join(f"{name}: {value}\n" for name, value in self._configuration.items())
        )
        self.start("jm")
        self.start("tm")
        self._wait_for_slots()
        self.jobs = self._start_job_server()
        self.workers = self._start_pool()

    def start(self, kind: str) -> None:
        """Start the JobManager (jm) or a TaskManager (tm)."""
        jars = [str(jar) for jar in sorted((HOME / "lib").glob("*.jar"))]
        jars += [str(j) for j in sorted(LIBS.glob("*.jar")) if not j.name.startswith(JARS_OF_FLINK)]
        log4j = f"-Dlog4j.configurationFile=file:{SERVER / 'log4j.properties'}"
        jvm, dynamic = _memory_parameters(kind, self._folder)
        command = ["java", *jvm, *JVM, log4j, "-cp", ":".join(jars), CLASSES[kind]]
        self._start(kind, [*command, "--configDir", str(self._folder), *dynamic])

    def kill(self, name: str) -> None:
        """Send SIGKILL to the process group of jm, tm, server, or pool (with its workers)."""
        process = self._processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def restart(self, name: str) -> None:
        """Start a killed TaskManager (tm), or the worker pool (pool) on the same port."""
        if name == "pool":
            self._start_pool(int(self.workers.rpartition(":")[2]))
        else:
            self.start(name)

    def pid(self, name: str) -> int:
        """Return the id of a process."""
        return self._processes[name].pid

    def log(self, name: str) -> str:
        """Return the output of a process."""
        return (self._folder / f"{name}.log").read_text(errors="replace")

    @property
    def master(self) -> str:
        """HOST:PORT of the REST API."""
        return f"localhost:{self._rest}"

    def rest(self, path: str, data: dict[str, Any] | None = None, method: str | None = None) -> Any:
        """Call Flink's REST API and return its JSON response."""
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._rest}{path}",
            data=body,
            method=method,
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.loads(response.read() or b"{}")

    def reset(self) -> None:
        """Restart killed processes, cancel unfinished jobs, and wait until they have ended."""
        for name in ("tm", "pool"):
            if name not in self._processes:
                self.restart(name)
        for job in self._unfinished():
            with contextlib.suppress(urllib.error.HTTPError):  # it has just ended
                self.rest(f"/jobs/{job}", method="PATCH")
        while self._unfinished():
            time.sleep(0.25)

    def close(self) -> None:
        """Kill all processes."""
        for name in list(self._processes):
            self.kill(name)

    def _unfinished(self) -> list[str]:
        ended = ("FINISHED", "FAILED", "CANCELED")
        jobs = self.rest("/jobs/overview")["jobs"]
        return [job["jid"] for job in jobs if job["state"] not in ended]

    def _start(self, name: str, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, **environment},
            )  # fmt: skip
        self._processes[name] = process
        return process

    def _wait_for_slots(self) -> None:
        while True:
            for name in ("jm", "tm"):
                assert self._processes[name].poll() is None, self.log(name)[-2000:]
            with contextlib.suppress(OSError):
                if self.rest("/overview")["slots-total"]:
                    return
            time.sleep(0.25)

    def _start_job_server(self) -> str:
        port = free_port()
        process = self._start(
            "server",
            ["sh", str(STANDALONE / "job-server.sh")],
            PATH=POOL_ENVIRONMENT["PATH"],
            FLINK_MASTER=self.master,
            JAVA_OPTIONS=" ".join([*OPENS, "-Xmx512m"]),
            JOB_SERVER=f"-cp {LIBS}/* {SERVER / 'JobServer.java'}",
            JOB_PORT=str(port),
            ARTIFACT_PORT=str(free_port()),
            ARTIFACTS=str(self._folder / "artifacts"),
        )
        wait_for(port, process)
        return f"localhost:{port}"

    def _start_pool(self, port: int | None = None) -> str:
        port = port or free_port()
        wait_for(port, self._start("pool", pool_command(port), **POOL_ENVIRONMENT))
        return f"localhost:{port}"


def _configuration(folder: Path, rest: int, rpc: int, blobs: int) -> dict[str, object]:
    common: dict[str, object] = yaml.safe_load((STANDALONE / "flink-conf.yaml").read_text())
    return common | {
        "jobmanager.rpc.address": "127.0.0.1",
        "jobmanager.rpc.port": rpc,
        "jobmanager.bind-host": "127.0.0.1",
        "jobmanager.memory.process.size": "1024m",
        "taskmanager.host": "127.0.0.1",
        "taskmanager.bind-host": "127.0.0.1",
        "taskmanager.memory.process.size": "2048m",
        "taskmanager.memory.managed.size": "256m",
        "taskmanager.numberOfTaskSlots": 2,
        "parallelism.default": 2,
        "rest.address": "127.0.0.1",
        "rest.bind-address": "127.0.0.1",
        "rest.port": rest,
        "blob.server.port": blobs,
        "heartbeat.interval": 1000,
        "heartbeat.timeout": 8000,
        "io.tmp.dirs": folder / "tmp",
        "state.checkpoints.dir": f"file://{folder}/checkpoints",
        "state.savepoints.dir": f"file://{folder}/savepoints",
    }


def _memory_parameters(kind: str, configuration: Path) -> tuple[list[str], list[str]]:
    """Return JVM and process options, from the helper of Flink's own start script."""
    (dist,) = (HOME / "lib").glob("flink-dist-*.jar")
    folders = [
        "--configDir",
        str(configuration),
        "--binDir",
        f"{HOME}/bin",
        "--libDir",
        f"{HOME}/lib",
    ]
    helper = "org.apache.flink.runtime.util.bash.BashJavaUtils"
    classes = f"{HOME / 'bin' / 'bash-java-utils.jar'}:{dist}"
    command = ["java", "-cp", classes, helper, f"GET_{kind.upper()}_RESOURCE_PARAMS", *folders]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    prefix = "BASH_JAVA_UTILS_EXEC_RESULT:"
    jvm, dynamic = [
        line.removeprefix(prefix).split() for line in output.splitlines() if prefix in line
    ]
    return jvm, dynamic


@contextlib.contextmanager
def flink_cluster(folder: Path) -> Iterator[Cluster]:
    """Run a cluster with its files in a folder."""
    (folder / "tmp").mkdir(parents=True)
    cluster = Cluster(folder)
    try:
        yield cluster
    finally:
        cluster.close()
